/**
 * How long finished jobs are kept.
 *
 * A job leaves the history when it is older than its state's age, or when there are as many younger ones of its state as
 * its state's count. Age counts from when the job finished, whenever it was due. With a job goes what kept others like it
 * out: uniqueness among finished jobs lasts no longer than they are kept.
 */
import { Duration, Effect, Schema } from "effect"
import { type FinishedState, finishedStates } from "./Job.ts"

/** Which jobs of a state are kept; what is left out does not limit, so `{}` keeps all of them for ever. */
export interface Rule {
  /** For how long after they finished. */
  readonly age?: Duration.Input | undefined
  /** At most how many: the ones that finished last. */
  readonly count?: number | undefined
}

/** The rule of each state; a state that is left out has its default. */
export type Retention = Readonly<Partial<Record<FinishedState, Rule | undefined>>>

/** A week for what completed or was cancelled, and a month for what failed for good, but no more than a disk can hold. */
export const defaults: Readonly<Record<FinishedState, Rule>> = {
  completed: { age: "7 days", count: 1_000_000 },
  cancelled: { age: "7 days", count: 100_000 },
  discarded: { age: "30 days", count: 100_000 }
}

/** Rules with every limit as a number; infinite where there is none. */
export type Limits = Readonly<Record<FinishedState, { readonly ageMillis: number; readonly count: number }>>

/** A rule that cannot be followed. */
export class InvalidRetention extends Schema.TaggedError<InvalidRetention>("@coppice/jobs/InvalidRetention")(
  "InvalidRetention",
  { path: Schema.String, problem: Schema.String }
) {
  override get message(): string {
    return `The retention of finished jobs is not possible: ${this.path} ${this.problem}`
  }
}

/**
 * Completes rules with the defaults, and checks them.
 *
 * ```ts
 * import { Retention } from "@coppice/jobs"
 *
 * const limits = Retention.limits({ completed: { age: "1 day" }, discarded: {} })
 * ```
 */
export const limits = Effect.fnUntraced(function* (retention: Retention = {}) {
  const found: Record<FinishedState, { readonly ageMillis: number; readonly count: number }> = {
    completed: unlimited,
    cancelled: unlimited,
    discarded: unlimited
  }
  for (const state of finishedStates) {
    const { age, count = Number.POSITIVE_INFINITY } = retention[state] ?? defaults[state]
    if (Number.isNaN(count) || count < 0 || (Number.isFinite(count) && !Number.isSafeInteger(count))) {
      return yield* new InvalidRetention({
        path: `${state}.count`,
        problem: `is ${count}: use a whole number from 0 on`
      })
    }
    const ageMillis = age === undefined ? Number.POSITIVE_INFINITY : millisOf(age)
    if (Number.isNaN(ageMillis) || ageMillis < 0) {
      return yield* new InvalidRetention({
        path: `${state}.age`,
        problem: `is ${String(age)}: use a duration such as "7 days", and nothing that is negative`
      })
    }
    found[state] = { ageMillis, count }
  }
  const all: Limits = found
  return all
})

const unlimited = { ageMillis: Number.POSITIVE_INFINITY, count: Number.POSITIVE_INFINITY }

const millisOf = (age: Duration.Input): number => {
  const duration = Duration.fromInput(age)
  return duration._tag === "Some" ? Duration.toMillis(duration.value) : Number.NaN
}
