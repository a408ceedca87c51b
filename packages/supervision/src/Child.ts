/**
 * A child specification: what a supervisor starts, how it restarts it, and how long it may take to stop.
 *
 * The words and the defaults are OTP's (`supervisor:child_spec/0`): a child is `permanent` and has 5 seconds to stop.
 *
 * ```ts
 * import { Child } from "@coppice/supervision"
 * import { Context, Effect, Layer } from "effect"
 *
 * class Greeter extends Context.Service<Greeter, { readonly greet: Effect.Effect<string> }>()("docs/Greeter") {}
 *
 * export const greeter = Child.layer("greeter", Layer.succeed(Greeter, { greet: Effect.succeed("hello") }))
 * export const ticker = Child.effect("ticker", Effect.forever(Effect.sleep("1 second")), { restart: "transient" })
 * ```
 */
import { type Duration, type Effect, type Layer, type Schedule, Schema, type Scope } from "effect"
import type { Process } from "./Process.ts"

/**
 * When a child that ended is started again: `permanent` always, `transient` after an abnormal end only, `temporary`
 * never.
 */
export type Restart = "permanent" | "transient" | "temporary"

/**
 * How long a child may take to stop. After a `Duration` it is abandoned: JavaScript cannot kill it, so it is reported
 * as leaked and no longer waited for. `"brutal_kill"` does not wait at all, `"infinity"` waits for ever.
 */
export type Shutdown = Duration.Input | "brutal_kill" | "infinity"

/** What a child specification says besides its id and what to start. */
export interface Options {
  /** Defaults to `"permanent"`. */
  readonly restart?: Restart | undefined
  /** Defaults to 5 seconds, for a child that is a supervisor to `"infinity"`. */
  readonly shutdown?: Shutdown | undefined
  /** How long a start may take before it counts as failed. Defaults to no limit, as in OTP. */
  readonly startTimeout?: Duration.Input | undefined
  /**
   * Delays between a crash and the restart. Starts anew after the child has been up for the supervisor's `within`.
   * When the schedule ends, the supervisor gives up. Defaults to no delay, as in OTP.
   */
  readonly backoff?: Schedule.Schedule<unknown> | undefined
  /**
   * What a call to the child's services does while the child restarts: `"wait"` until it is up again, or `"fail"` at
   * once with the defect `ChildUnavailable`. Defaults to `"wait"`.
   */
  readonly whileDown?: "wait" | "fail" | undefined
  /**
   * Whether a fiber that the child's layer forks into its scope, and that fails, is the crash of the child. With
   * `false` only what is linked (`Process.link`, a `GenServer`, a supervisor) is. Defaults to `true`.
   */
  readonly linkFibers?: boolean | undefined
}

/** A specification: `Id` is its name below its supervisor, `ROut` what it provides, `RIn` what it needs from others. */
export interface Child<out Id extends string, out ROut, out E, out RIn> {
  readonly id: Id
  readonly options: Options
  readonly start:
    | { readonly _tag: "Layer"; readonly layer: Layer.Layer<never, E, RIn | Process> }
    | { readonly _tag: "Effect"; readonly effect: Effect.Effect<unknown, unknown, RIn | Process | Scope.Scope> }
  readonly "~provides": () => ROut
}

/** Any specification. */
export type Any = Child<string, unknown, unknown, unknown>

/**
 * The defect of a call to a child that cannot answer: it is `restarting` (with `whileDown: "fail"`), it `crashed` while
 * the call ran, it was `stopped`, it has `finished`, its supervisor `gave up`, or it is the caller that was `abandoned` because it did
 * not stop in time. `cause` is why, as far as it is known.
 */
export class ChildUnavailable extends Schema.TaggedError<ChildUnavailable>()("ChildUnavailable", {
  path: Schema.String,
  reason: Schema.Literals(["restarting", "crashed", "stopped", "finished", "gave up", "abandoned"]),
  cause: Schema.Unknown
}) {
  override get message(): string {
    return `${this.path} is not available: ${explanation[this.reason]}`
  }
}

const explanation = {
  restarting: 'it is restarting, and this call does not wait (whileDown: "fail", or the caller is being stopped)',
  crashed: "it crashed while the call was running",
  stopped: "it was stopped",
  finished: "it has finished and will not be restarted",
  "gave up": "its supervisor gave up restarting",
  abandoned: "the caller did not stop in time and was abandoned, so nobody answers it any more"
}

/** A child that is a layer: up when the layer is built, stopped by closing the layer's scope. */
export const layer = <const Id extends string, ROut, E, RIn>(
  id: Id,
  layer: Layer.Layer<ROut, E, RIn>,
  options: Options = {}
): Child<Id, ROut, E, Exclude<RIn, Process>> => ({
  id,
  options,
  // What the layer provides is read from its context at run time: the type lives on in "~provides".
  start: { _tag: "Layer", layer: layer as unknown as Layer.Layer<never, E, Exclude<RIn, Process> | Process> },
  "~provides": provides
})

/**
 * A child that is one effect: up at once, and its end is the child's end. For it a normal exit, `transient` and
 * `temporary` mean what they mean in OTP; a failure or defect is abnormal, and so is an interruption from outside.
 */
export const effect = <const Id extends string, A, E, R>(
  id: Id,
  effect: Effect.Effect<A, E, R>,
  options: Options = {}
): Child<Id, never, never, Exclude<R, Process | Scope.Scope>> => ({
  id,
  options,
  // The supervisor provides Process and Scope to every child.
  start: { _tag: "Effect", effect: effect as Effect.Effect<A, E, Exclude<R, Process | Scope.Scope>> },
  "~provides": provides
})

const provides = (): never => {
  throw new Error("~provides carries a type and is never called")
}
