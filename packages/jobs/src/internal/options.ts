/** Options of a node, checked. */
import { Duration, Effect, Option, Schema } from "effect"
import { problemOf } from "./json.ts"

/** An option that cannot be followed. */
export class InvalidOptions extends Schema.TaggedError<InvalidOptions>("@coppice/jobs/InvalidOptions")(
  "InvalidOptions",
  {
    option: Schema.String,
    problem: Schema.String
  }
) {
  override get message(): string {
    return `The job queue cannot start: ${this.option} ${this.problem}`
  }
}

/** A duration that ends, and is no shorter than the shortest. */
export const durationFrom = (
  option: string,
  shortest: Duration.Input,
  input: Duration.Input
): Effect.Effect<Duration.Duration, InvalidOptions> => {
  const least = Duration.fromInputUnsafe(shortest)
  const duration = Option.getOrUndefined(Duration.fromInput(input))
  if (duration === undefined || !Duration.isFinite(duration) || Duration.isNegative(duration)) {
    const problem = `is ${String(input)}, and must be a duration that is finite, such as "30 seconds"`
    return Effect.fail(new InvalidOptions({ option, problem }))
  }
  return Duration.isGreaterThanOrEqualTo(duration, least)
    ? Effect.succeed(duration)
    : Effect.fail(
        new InvalidOptions({
          option,
          problem: `is ${Duration.format(duration)}, and must be at least ${Duration.format(least)}`
        })
      )
}

export const count = (option: string, value: number): Effect.Effect<number, InvalidOptions> =>
  Number.isSafeInteger(value) && value > 0
    ? Effect.succeed(value)
    : Effect.fail(new InvalidOptions({ option, problem: `is ${value}, and must be a whole number from 1 on` }))

const longestName = 255

/** The name of a node: `""` would be that of every node. */
export const nodeName = (name: string): Effect.Effect<string, InvalidOptions> => {
  const problem =
    typeof name !== "string" || name === ""
      ? "must be a text that is not empty: leave it out for the name of the host"
      : name.length > longestName
        ? `is longer than ${longestName} characters`
        : problemOf(name)
  return problem === undefined ? Effect.succeed(name) : Effect.fail(new InvalidOptions({ option: "node", problem }))
}
