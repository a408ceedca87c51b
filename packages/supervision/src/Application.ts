/**
 * Runs a supervision tree as a program: boots it, stops it in order on a signal, and ends with an exit code that tells
 * what happened.
 *
 * | exit code | meaning |
 * | --- | --- |
 * | 0 | stopped in order after SIGINT or SIGTERM |
 * | 1 | a child failed its first start, the root supervisor gave up, or an exception escaped every fiber |
 * | 124 | the stop took longer than `shutdownTimeout` |
 * | 130, 143 | a second SIGINT or SIGTERM, half a second or more after the first, ended the program at once |
 *
 * What happened first decides: a signal that arrives while a supervisor that gave up stops its children does not make
 * the code 0.
 *
 * In OTP's words every application run this way is `permanent`: when its top supervisor ends, so does the node.
 *
 * ```ts
 * import { Application, Child, Supervisor } from "@coppice/supervision"
 * import { Effect } from "effect"
 *
 * const App = Supervisor.layer("App", {
 *   strategy: "one_for_one",
 *   children: [Child.effect("ticker", Effect.forever(Effect.delay(Effect.log("tick"), "1 second")))]
 * })
 *
 * export const main = () => Application.run(App, { shutdownTimeout: "10 seconds" })
 * ```
 */
import { Cause, Clock, Deferred, Duration, Effect, Exit, Layer, Scope } from "effect"
import { monotonicMillis } from "./internal/child.ts"
import { StartError } from "./internal/errors.ts"
import { CurrentRegistry, type Registry } from "./internal/nodes.ts"
import { CurrentProgram } from "./internal/program.ts"
import { watch } from "./internal/watch.ts"
import * as Tree from "./Tree.ts"

const clock = Clock.Clock.defaultValue()

/** How a program stops. */
export interface Options {
  /** How long an orderly stop may take altogether before the program ends without it. Defaults to 20 seconds. */
  readonly shutdownTimeout?: Duration.Input | undefined
}

type KeyOf<Service> = Service extends { readonly key: infer Key extends string }
  ? Key
  : "a service without a literal key"

/** The reason why a layer cannot be run: it still needs a service. */
export type Complete<R> = [R] extends [never]
  ? unknown
  : `nothing provides '${KeyOf<R>}': add a child that does before the one that needs it, or provide its layer`

/**
 * Boots a layer and keeps it running; for `NodeRuntime.runMain` and other runtimes. Interruption stops the tree in
 * order. Fails with the layer's own error when it does not start, and with the cause of a fiber in its scope that fails
 * later: for a supervisor that gives up, `MaxRestartsExceeded`.
 */
export const launch = <A, E, R>(layer: Layer.Layer<A, E, R>): Effect.Effect<never, E, R> => launchWith(layer, () => {})

// `onEnding` is told as soon as there is a reason to end, before the stop that may take a while.
const launchWith = <A, E, R>(
  layer: Layer.Layer<A, E, R>,
  onEnding: (cause: Cause.Cause<unknown>) => void
): Effect.Effect<never, E, R> =>
  Effect.scopedWith((scope) =>
    Effect.gen(function* () {
      const root = yield* Scope.fork(scope)
      const crash = yield* Deferred.make<never, E>()
      const context = yield* Effect.context<R>()
      const registries = new Set<Registry>()
      const end = (cause: Cause.Cause<unknown>): void => {
        // A later failure is the program's end, whatever its type.
        Deferred.doneUnsafe(crash, Exit.failCause(cause as Cause.Cause<never>))
      }
      const onCrash = (exit: Exit.Exit<unknown, unknown>): void => {
        if (Exit.isSuccess(exit)) return
        onEnding(exit.cause)
        end(exit.cause)
      }
      const memoMap = watch(Layer.CurrentMemoMap.forkOrCreate(context), root, onCrash, true)
      const built = yield* Layer.buildWithMemoMap(layer, memoMap, root).pipe(
        Effect.provideService(CurrentProgram, {
          starting: (registry) => registries.add(registry),
          ending: onEnding,
          ended: end
        }),
        Effect.onError((cause) => Effect.sync(() => Cause.hasInterruptsOnly(cause) || onEnding(cause)))
      )
      const trees = yield* Effect.forEach(registries, (registry) =>
        Effect.provideService(Tree.render, CurrentRegistry, registry)
      )
      // Where the layer brings its own loggers, they are told.
      yield* Effect.provideContext(Effect.logInfo(["application started", ...trees].join("\n")), built)
      return yield* Deferred.await(crash)
    })
  )

/**
 * Runs a layer as the main program of this process: `launch`, with signals, a deadline for the stop, and exit codes (see
 * the table above). Exceptions outside every fiber stop the tree in order as well; they cannot be blamed on a child.
 */
export const run = <A, E, R>(layer: Layer.Layer<A, E, R> & Complete<R>, options: Options = {}): void => {
  const timeoutMillis = Duration.toMillis(Duration.fromInputUnsafe(options.shutdownTimeout ?? "20 seconds"))
  let code: number | undefined
  let failure: Cause.Cause<unknown> | undefined
  // What comes first decides: after a signal nothing that fails in the stop, after a failure no signal.
  const onEnding = (cause: Cause.Cause<unknown>): void => {
    if (code !== undefined) return
    code = 1
    failure = cause
  }
  // Complete<R> has shown that nothing is required.
  const fiber = Effect.runFork(launchWith(layer, onEnding) as Effect.Effect<never, E>)
  // A tree that only waits for signals would not keep Node.js running.
  // @effect-diagnostics-next-line globalTimers:off
  const keepAlive = setInterval(() => {}, 2 ** 31 - 1)
  let stopping = false
  const stop = (because: string): void => {
    if (stopping) return
    stopping = true
    Effect.runFork(Effect.logInfo(`${because}: stopping the application`))
    fiber.interruptUnsafe()
    Effect.runFork(
      Effect.sleep(timeoutMillis).pipe(
        Effect.andThen(Effect.logError(`the application did not stop within ${timeoutMillis} ms`)),
        Effect.andThen(exit(() => 124))
      )
    )
  }
  let signalledAt = -Infinity
  const onSignal = (signal: "SIGINT" | "SIGTERM") => {
    const now = monotonicMillis(clock)
    const before = signalledAt
    // One Ctrl-C may arrive twice: from the terminal, and passed on by the npm that started this program.
    if (now - before < 500) return
    signalledAt = now
    if (before !== -Infinity) process.exit(signal === "SIGINT" ? 130 : 143)
    code ??= 0
    stop(signal)
  }
  const onEscaped = (error: unknown): void => {
    Effect.runFork(Effect.logFatal("an exception escaped every fiber", Cause.die(error)))
    code = 1
    stop("uncaught exception")
  }
  process.on("SIGINT", onSignal)
  process.on("SIGTERM", onSignal)
  process.on("uncaughtException", onEscaped)
  process.on("unhandledRejection", onEscaped)
  fiber.addObserver((end) => {
    clearInterval(keepAlive)
    const interrupted = Exit.isFailure(end) && Cause.hasInterruptsOnly(end.cause)
    // A signal during the stop after a failure has interrupted the program: the failure is why it ended all the same.
    const why = interrupted && failure !== undefined ? Exit.failCause(failure) : end
    Effect.runFork(
      Effect.andThen(
        report(why, code),
        exit(() => code ?? 1)
      )
    )
  })
}

const report = (end: Exit.Exit<never, unknown>, code: number | undefined): Effect.Effect<void> => {
  if (Exit.isSuccess(end) || (code !== undefined && Cause.hasInterruptsOnly(end.cause))) {
    return Effect.logInfo("application stopped")
  }
  const error: unknown = Cause.squash(end.cause)
  // An expected failure says in its message what to do; only a defect is looked for by its stack.
  const expected =
    error instanceof StartError && Cause.isCause(error.reason) && error.reason.reasons.every(Cause.isFailReason)
  return expected
    ? Effect.logFatal(`application did not start: ${error.message}`)
    : Effect.logFatal("application ended", end.cause)
}

// Node.js drops on exit what a pipe has not taken yet, and the reason for the end is what was written last. Who does not
// read does not keep the program from ending.
const exit = (code: () => number): Effect.Effect<void> =>
  Effect.all([written(process.stdout), written(process.stderr)], { concurrency: 2 }).pipe(
    Effect.timeoutOption("1 second"),
    Effect.andThen(Effect.sync(() => process.exit(code())))
  )

const written = (stream: NodeJS.WriteStream): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const done = (): void => resume(Effect.void)
    // Nobody may be there to read: then nothing is lost.
    stream.on("error", done)
    stream.write("", done)
  })
