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
import { Cause, Clock, Deferred, Duration, Effect, Exit, type Fiber, Layer, Scope } from "effect"
import { monotonicMillis } from "./internal/child.ts"
import { StartError } from "./internal/errors.ts"
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
export const launch = <A, E, R>(layer: Layer.Layer<A, E, R>): Effect.Effect<never, E, R> =>
  Effect.scopedWith((scope) =>
    Effect.gen(function* () {
      const root = yield* Scope.fork(scope)
      const crash = yield* Deferred.make<never, E>()
      const context = yield* Effect.context<R>()
      const onCrash = (exit: Exit.Exit<unknown, unknown>) => {
        // A later failure is the program's end, whatever its type.
        if (Exit.isFailure(exit)) Deferred.doneUnsafe(crash, Exit.failCause(exit.cause as Cause.Cause<never>))
      }
      const memoMap = watch(Layer.CurrentMemoMap.forkOrCreate(context), root, onCrash, true)
      yield* Layer.buildWithMemoMap(layer, memoMap, root)
      yield* Effect.logInfo(`application started\n${yield* Tree.render}`)
      return yield* Deferred.await(crash)
    })
  )

/**
 * Runs a layer as the main program of this process: `launch`, with signals, a deadline for the stop, and exit codes (see
 * the table above). Exceptions outside every fiber stop the tree in order as well; they cannot be blamed on a child.
 */
export const run = <A, E, R>(layer: Layer.Layer<A, E, R> & Complete<R>, options: Options = {}): void => {
  const timeoutMillis = Duration.toMillis(Duration.fromInputUnsafe(options.shutdownTimeout ?? "20 seconds"))
  // Complete<R> has shown that nothing is required.
  const fiber = Effect.runFork(launch(layer) as Effect.Effect<never, E>)
  // A tree that only waits for signals would not keep Node.js running.
  // @effect-diagnostics-next-line globalTimers:off
  const keepAlive = setInterval(() => {}, 2 ** 31 - 1)
  let code: number | undefined
  const stop = (because: string, exitCode: number): void => {
    code = exitCode
    Effect.runFork(Effect.logInfo(`${because}: stopping the application`))
    fiber.interruptUnsafe()
    Effect.runFork(
      Effect.andThen(
        Effect.sleep(timeoutMillis),
        Effect.andThen(
          Effect.logError(`the application did not stop within ${timeoutMillis} ms`),
          Effect.sync(() => process.exit(124))
        )
      )
    )
  }
  let signalledAt = -Infinity
  const onSignal = (signal: "SIGINT" | "SIGTERM") => {
    const now = monotonicMillis(clock)
    // One Ctrl-C may arrive twice: from the terminal, and passed on by the npm that started this program.
    if (now - signalledAt < 500) return
    signalledAt = now
    if (code !== undefined) process.exit(signal === "SIGINT" ? 130 : 143)
    stop(signal, 0)
  }
  const onEscaped = (error: unknown): void => {
    Effect.runFork(Effect.logFatal("an exception escaped every fiber", Cause.die(error)))
    if (code === undefined) stop("uncaught exception", 1)
    else code = 1
  }
  process.on("SIGINT", onSignal)
  process.on("SIGTERM", onSignal)
  process.on("uncaughtException", onEscaped)
  process.on("unhandledRejection", onEscaped)
  fiber.addObserver((exit) => {
    clearInterval(keepAlive)
    const end = report(exit, code)
    end.addObserver(() => process.exit(code ?? 1))
  })
}

const report = (exit: Exit.Exit<never, unknown>, code: number | undefined): Fiber.Fiber<void> => {
  if (Exit.isSuccess(exit) || (code !== undefined && Cause.hasInterruptsOnly(exit.cause))) {
    return Effect.runFork(Effect.logInfo("application stopped"))
  }
  const error: unknown = Cause.squash(exit.cause)
  // An expected failure says in its message what to do; only a defect is looked for by its stack.
  const expected =
    error instanceof StartError && Cause.isCause(error.reason) && error.reason.reasons.every(Cause.isFailReason)
  return Effect.runFork(
    expected
      ? Effect.logFatal(`application did not start: ${error.message}`)
      : Effect.logFatal("application ended", exit.cause)
  )
}
