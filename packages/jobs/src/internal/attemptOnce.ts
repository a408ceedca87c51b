/**
 * One attempt of a job that is in no database.
 */
import { Clock, DateTime, Effect, Exit, Schema } from "effect"
import type { Outcome } from "../Runner.ts"
import { InvalidJob, type NewJob } from "../NewJob.ts"
import type { Running as Worker } from "../Worker.ts"
import * as Attempt from "./attempt.ts"
import type { ClaimedRow } from "./claim.ts"
import { Rows } from "./enqueueRow.ts"
import { outcomeOf } from "./runner.ts"

/** What a handler answered cannot be recorded. In a queue the job completes all the same, and says so in its errors. */
export class InvalidResult extends Schema.TaggedError<InvalidResult>("@coppice/jobs/Runner/InvalidResult")(
  "InvalidResult",
  { worker: Schema.String, problem: Schema.String }
) {
  override get message(): string {
    return `${this.worker}: ${this.problem}`
  }
}

/** What may be said of an attempt. */
export interface Attempted {
  /** Defaults to 1. */
  readonly attempt?: number | undefined
  /** Defaults to 1. */
  readonly id?: number | undefined
}

export const attemptOnce = (
  worker: Worker,
  newJob: NewJob,
  { attempt = 1, id = 1 }: Attempted = {}
): Effect.Effect<Outcome, InvalidJob | InvalidResult> =>
  Effect.gen(function* () {
    const checked = new Rows().check(newJob)
    if (checked instanceof InvalidJob) return yield* checked
    const millis = yield* Clock.currentTimeMillis
    const now = dateOf(millis)
    const row: ClaimedRow = {
      id,
      lease: attempt,
      worker: newJob.worker,
      args: JSON.parse(checked.args),
      args_version: newJob.argsVersion,
      attempt,
      max_attempts: newJob.maxAttempts,
      priority: newJob.priority,
      tags: newJob.tags,
      meta: newJob.meta,
      inserted_at: now,
      scheduled_at: dateOf(checked.due ?? millis + (checked.delay ?? 0)),
      attempted_at: now,
      queued_at: now,
      trace: null,
      cron_name: null,
      cron_at: null,
      unique: newJob.unique !== undefined
    }
    const job = Attempt.decode(worker, row, newJob.queue)
    if (Exit.isFailure(job)) {
      const [reason] = job.cause.reasons
      const problem =
        reason?._tag === "Fail"
          ? `do not fit their schema after they were JSON: ${reason.error.message}`
          : "could not be decoded"
      return yield* new InvalidJob({ worker: newJob.worker, path: "args", problem })
    }
    const services = yield* Effect.context<never>()
    const exit = yield* Effect.exit(
      Effect.provideContext(Attempt.run(worker, job.value, null), Attempt.servicesOf(services, job.value))
    )
    const verdict = yield* Attempt.judge(worker, row, "", exit, undefined)
    if (Exit.isSuccess(exit) && verdict.line.error !== undefined) {
      return yield* new InvalidResult({ worker: newJob.worker, problem: verdict.line.error.message })
    }
    return outcomeOf(row, verdict, exit)
  })

const dateOf = (millis: number) => DateTime.toDateUtc(DateTime.makeUnsafe(millis))
