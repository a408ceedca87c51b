/** How a supervisor fails; public as `Supervisor.StartError` and the others. */
import { Cause, Formatter, Schema } from "effect"

/**
 * A supervisor could not start because the child at `path` (the innermost, with every level named) failed its first
 * start; `reason` is that child's whole cause. What had started before it has been stopped again, in reverse order.
 */
export class StartError<out E = unknown> extends Schema.TaggedError<StartError>()("StartError", {
  path: Schema.String,
  reason: Schema.Unknown
}) {
  declare readonly reason: Cause.Cause<E>

  override get message(): string {
    return `${this.path} failed to start: ${summary(this.reason)}`
  }
}

/** A start took longer than the child's `startTimeout`. */
export class StartTimeout extends Schema.TaggedError<StartTimeout>()("StartTimeout", {
  path: Schema.String,
  millis: Schema.Finite
}) {
  override get message(): string {
    return `${this.path} was not up within its startTimeout of ${this.millis} ms`
  }
}

/** Options that no supervisor can work with; nothing has been started. */
export class InvalidOptions extends Schema.TaggedError<InvalidOptions>()("InvalidOptions", {
  path: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `${this.path}: ${this.problem}`
  }
}

/**
 * A supervisor gave up: `child` ended once more after `maxRestarts` restarts within `withinMillis`, or its backoff
 * schedule ended (`limit` tells which); `reason` is the cause of that last end. For the parent this is an abnormal end.
 */
export class MaxRestartsExceeded extends Schema.TaggedError<MaxRestartsExceeded>()("MaxRestartsExceeded", {
  path: Schema.String,
  child: Schema.String,
  limit: Schema.Literals(["maxRestarts", "backoff"]),
  maxRestarts: Schema.Finite,
  withinMillis: Schema.Finite,
  reason: Schema.Unknown
}) {
  declare readonly reason: Cause.Cause<unknown>

  override get message(): string {
    const why =
      this.limit === "backoff"
        ? `the backoff schedule of ${this.child} ended`
        : `${this.child} exceeded ${this.maxRestarts} restarts within ${this.withinMillis} ms`
    return `${this.path} gave up: ${why}; the last end was: ${summary(this.reason)}`
  }
}

/** What a cause says, in one short line. */
export const briefly = (cause: Cause.Cause<unknown>): string => {
  const error: unknown = Cause.squash(cause)
  const text = error instanceof Error && error.message !== "" ? error.message : summary(cause)
  const line = text.split("\n", 1).join()
  return line.length > 100 ? `${line.slice(0, 99)}…` : line
}

const summary = (cause: Cause.Cause<unknown>): string => {
  const error: unknown = Cause.squash(cause)
  if (error instanceof Error) return error.message === "" ? error.name : `${error.name}: ${error.message}`
  return typeof error === "object" && error !== null ? Formatter.format(error) : String(error)
}
