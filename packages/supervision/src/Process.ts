/**
 * The process that a child is: its path and name, what is linked to it, and the watching of others.
 *
 * A supervisor provides `Process` to every child it starts. A link is Erlang's link to the owner: what is linked dies
 * with the child, and its failure is the child's crash. A monitor is Erlang's monitor: it tells of the end exactly once.
 *
 * ```ts
 * import { Process } from "@coppice/supervision"
 * import { Effect, Layer } from "effect"
 *
 * export const heartbeat = Layer.effectDiscard(Effect.gen(function*() {
 *   const { path } = yield* Process.Process
 *   yield* Process.link(Effect.forever(Effect.delay(Effect.logDebug(`${path} is alive`), "10 seconds")))
 * }))
 * ```
 */
import { Cause, Context, Effect, Exit, type Fiber, Scope } from "effect"
import { findNode, type Killed } from "./internal/nodes.ts"

/** What `Tree` shows of a process besides its life: how many messages wait, and how many were handled. */
export interface Report {
  readonly mailboxLength: number
  readonly handled: number
}

/** The identity of a running child and the ways to tie an effect to its life. */
export class Process extends Context.Service<
  Process,
  {
    /** The names from the root down, joined by "/". */
    readonly path: string
    /** The child's id below its supervisor. */
    readonly name: string
    /** 1 for the first instance of the child, one more for each restart. */
    readonly incarnation: number
    readonly link: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<Fiber.Fiber<A, E>, never, R>
    /** Ends this process with a reason: its supervisor does what the restart type says. */
    readonly exit: (reason: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
    /** Has `Tree` show the report of this process. */
    readonly report: (report: () => Report) => Effect.Effect<void>
  }
>()("@coppice/supervision/Process") {}

/** Runs an effect in a fiber of this process: it is stopped with the process, and its failure is the process's crash. */
export const link = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Fiber.Fiber<A, E>, never, R | Process> =>
  Effect.flatMap(Process, (process) => process.link(effect))

/**
 * Runs an effect whose scoped fibers are not linked: `Process.unlinked(Effect.forkScoped(task))` forks a fiber that is
 * stopped with the process, and whose failure harms nobody. A `GenServer` or a supervisor in it is linked all the same:
 * they link themselves.
 */
export const unlinked = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.flatMap(Effect.scope, (scope) =>
    Effect.suspend(() => {
      // Not a fork: the forks of a scope may be watched as the scope itself is.
      const own = Scope.makeUnsafe()
      return Effect.andThen(
        Scope.addFinalizerExit(scope, (exit) => Scope.close(own, exit)),
        Scope.provide(effect, own)
      )
    })
  ) as Effect.Effect<A, E, R | Scope.Scope>

/** The end of a process, as a monitor sees it. */
export interface Down {
  readonly path: string
  readonly incarnation: number
  /** `no process` when nothing ran at the path. */
  readonly reason: "normal" | "shutdown" | "crashed" | "killed" | "no process"
  readonly exit: Exit.Exit<unknown, unknown>
}

/**
 * Watches the process that runs at a path now. The effect it returns waits for that process's end, which it tells
 * exactly once; when nothing runs there, it tells so at once. Closing the scope ends the watching.
 */
export const monitor = (path: string): Effect.Effect<Effect.Effect<Down>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const node = yield* findNode(path)
    const running = node?.monitors
    if (running === undefined) {
      return Effect.succeed({ path, incarnation: 0, reason: "no process", exit: Exit.void })
    }
    const incarnation = node?.incarnation ?? 0
    let down: Down | undefined
    const told = new Set<(down: Down) => void>()
    const onEnd = (exit: Exit.Exit<unknown, unknown>, stopped: boolean): void => {
      down = { path, incarnation, reason: reasonOf(exit, stopped), exit }
      for (const tell of told) tell(down)
      told.clear()
    }
    running.add(onEnd)
    yield* Effect.addFinalizer(() => Effect.sync(() => running.delete(onEnd)))
    return Effect.callback<Down>((resume) => {
      if (down !== undefined) return resume(Effect.succeed(down))
      const tell = (down: Down) => resume(Effect.succeed(down))
      told.add(tell)
      return Effect.sync(() => {
        told.delete(tell)
      })
    })
  })

const reasonOf = (exit: Exit.Exit<unknown, unknown>, stopped: boolean): Down["reason"] => {
  if (stopped) return "shutdown"
  if (Exit.isSuccess(exit)) return "normal"
  return exit.cause.reasons.some((reason) => isKilled(Cause.isDieReason(reason) ? reason.defect : failureOf(reason)))
    ? "killed"
    : "crashed"
}

const failureOf = (reason: Cause.Reason<unknown>): unknown => (Cause.isFailReason(reason) ? reason.error : undefined)

const isKilled = (defect: unknown): defect is Killed =>
  typeof defect === "object" && defect !== null && "_tag" in defect && defect._tag === "Killed"
