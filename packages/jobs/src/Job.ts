/**
 * A job: what a handler is given, how it may end, and the record that the database keeps of it.
 *
 * The states and their meaning are Oban's: a job is `scheduled` or `available` at first, `executing` when a node has
 * claimed it, `retryable` between two attempts, and ends as `completed`, `cancelled` or `discarded`.
 */
import { type DateTime, Duration, Effect, Schema } from "effect"

/** The number of a job; never used twice, and kept when the job moves to the history. */
export const JobId = Schema.Int.pipe(Schema.brand("coppice/jobs/JobId"))
export type JobId = typeof JobId.Type

/** States of a job that is not finished. */
export const activeStates = ["scheduled", "available", "executing", "retryable"] as const
export type ActiveState = (typeof activeStates)[number]

/** States of a job that is finished. */
export const finishedStates = ["completed", "cancelled", "discarded"] as const
export type FinishedState = (typeof finishedStates)[number]

export const states = [...activeStates, ...finishedStates] as const
export type State = ActiveState | FinishedState

/** Which entry of the crontab made a job, and for which instant. */
export interface CronTick {
  readonly name: string
  /** The scheduled instant, which is not later than when the job was made. */
  readonly at: DateTime.Utc
}

/** What a handler is given. */
export interface Job<out Args = unknown> {
  readonly id: JobId
  readonly worker: string
  readonly queue: string
  readonly args: Args
  /** 1 at the first run. */
  readonly attempt: number
  readonly maxAttempts: number
  /** 0 (first) to 9 (last). */
  readonly priority: number
  readonly tags: ReadonlyArray<string>
  readonly meta: Readonly<Record<string, Schema.Json>>
  /**
   * Grows with every claim of this job, and is never used twice: a fencing token for writes to other systems, which may
   * refuse what comes with a smaller one than they have seen.
   */
  readonly lease: number
  readonly insertedAt: DateTime.Utc
  readonly scheduledAt: DateTime.Utc
  readonly attemptedAt: DateTime.Utc
  /** Set for jobs that the crontab made. */
  readonly cron: CronTick | undefined
}

/** Why an attempt did not succeed, as it is kept with the job. */
export interface AttemptError {
  readonly at: string
  readonly attempt: number
  /** `"failed"`, `"died"`, `"timed out"`, `"interrupted"`, `"cancelled"`, `"discarded"`, `"node lost"`, `"invalid args"`. */
  readonly kind: string
  readonly message: string
  /** The node that ran it. */
  readonly node?: string | undefined
}

/** A job as the database has it: its args are as they were encoded. */
export interface JobRecord {
  readonly id: JobId
  readonly state: State
  readonly worker: string
  readonly queue: string
  readonly args: Schema.Json
  readonly argsVersion: number
  readonly attempt: number
  readonly maxAttempts: number
  readonly priority: number
  readonly tags: ReadonlyArray<string>
  readonly meta: Readonly<Record<string, Schema.Json>>
  readonly errors: ReadonlyArray<AttemptError>
  /** What the handler answered, for workers that record it. */
  readonly result: Schema.Json | undefined
  readonly lease: number
  /** How often it was snoozed, and how often it was taken from a node that was lost. */
  readonly snoozes: number
  readonly rescues: number
  readonly partition: string | undefined
  readonly cancelRequestedAt: DateTime.Utc | undefined
  readonly insertedAt: DateTime.Utc
  readonly scheduledAt: DateTime.Utc
  readonly attemptedAt: DateTime.Utc | undefined
  readonly finishedAt: DateTime.Utc | undefined
}

// --------------------------------------------------------------------------------------------------------------------
// endings
// --------------------------------------------------------------------------------------------------------------------

/** The job ends as `cancelled`: there is nothing to do any more. */
export class Cancel extends Schema.TaggedError<Cancel>("@coppice/jobs/Job/Cancel")("Cancel", {
  reason: Schema.String
}) {
  override get message(): string {
    return `The job cancels itself: ${this.reason}`
  }
}

/** The job ends as `discarded`: it can never succeed. */
export class Discard extends Schema.TaggedError<Discard>("@coppice/jobs/Job/Discard")("Discard", {
  reason: Schema.String
}) {
  override get message(): string {
    return `The job discards itself: ${this.reason}`
  }
}

/** The job runs again later; this attempt does not count. */
export class Snooze extends Schema.TaggedError<Snooze>("@coppice/jobs/Job/Snooze")("Snooze", {
  duration: Schema.Duration
}) {
  override get message(): string {
    return "The job snoozes"
  }
}

/** The error of an attempt that did not end within its worker's `timeout`, as `backoff` sees it. */
export class JobTimeout extends Schema.TaggedError<JobTimeout>("@coppice/jobs/JobTimeout")("JobTimeout", {
  after: Schema.Duration
}) {
  override get message(): string {
    return `The handler did not end within ${Duration.format(this.after)} and was interrupted`
  }
}

/** Ends the job as `cancelled`, from inside its handler. As Oban's `{:cancel, reason}`. */
export const cancel = (reason: string): Effect.Effect<never, Cancel> => Effect.fail(new Cancel({ reason }))

/** Ends the job as `discarded`, from inside its handler, however many attempts are left. As Oban's `{:discard, reason}`. */
export const discard = (reason: string): Effect.Effect<never, Discard> => Effect.fail(new Discard({ reason }))

/**
 * Runs the job again after a while, without using an attempt, from inside its handler. As Oban's `{:snooze, seconds}`.
 *
 * A duration of nothing or less counts as one second; one of more than a hundred years is a failure.
 */
export const snooze = (duration: Duration.Input): Effect.Effect<never, Snooze> =>
  Effect.suspend(() => Effect.fail(new Snooze({ duration: Duration.fromInputUnsafe(duration) })))
