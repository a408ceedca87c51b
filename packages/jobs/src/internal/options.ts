/** Options of a node, checked. */
import { Duration, Effect, Option, Schema } from "effect"

/** An option that cannot be followed. */
export class InvalidOptions extends Schema.TaggedError<InvalidOptions>("@coppice/jobs/InvalidOptions")(
  "InvalidOptions",
  {
    option: Schema.String,
    problem: Schema.String
  }
) {
  override get message(): string {
    return `Jobs.layer: ${this.option} ${this.problem}`
  }
}

export const positive = (option: string, input: Duration.Input): Effect.Effect<Duration.Duration, InvalidOptions> => {
  const duration = Option.getOrUndefined(Duration.fromInput(input))
  const problem = 'must be a duration that is finite, such as "30 seconds"'
  return duration !== undefined && Duration.isFinite(duration) && !Duration.isNegative(duration)
    ? Effect.succeed(duration)
    : Effect.fail(new InvalidOptions({ option, problem: `is ${String(input)}, and ${problem}` }))
}

export const count = (option: string, value: number): Effect.Effect<number, InvalidOptions> =>
  Number.isSafeInteger(value) && value > 0
    ? Effect.succeed(value)
    : Effect.fail(new InvalidOptions({ option, problem: `is ${value}, and must be a whole number from 1 on` }))
