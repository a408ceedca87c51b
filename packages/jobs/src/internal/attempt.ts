/**
 * One attempt of one job: from the claimed row to what is to be written of it.
 */
import { Cause, Context, DateTime, Duration, Effect, Exit, Option, References, Schema, type Tracer } from "effect"
import { Headers, HttpTraceContext } from "effect/http"
import { Cancel, type CronTick, Discard, type Job, type JobId, Snooze } from "../Job.ts"
import { defaultBackoff, type Running as Worker } from "../Worker.ts"
import type { ClaimedRow } from "./claim.ts"
import { findUnstorable, storable } from "./json.ts"
import type { Line } from "./settle.ts"

/** The handler did not end within its worker's timeout. */
export class JobTimeout extends Schema.TaggedError<JobTimeout>("@coppice/jobs/JobTimeout")("JobTimeout", {
  after: Schema.Duration
}) {
  override get message(): string {
    return `The handler did not end within ${Duration.format(this.after)} and was interrupted`
  }
}

/** Why a handler was interrupted from outside. */
export type Interruption = "shutdown" | "cancel" | "lost"

/** The longest error text that is kept. */
const messageLimit = 8_000

/** The job as its handler sees it; fails where the args do not fit the worker's schema. */
export const decode = (worker: Worker, row: ClaimedRow, queue: string): Exit.Exit<Job, Schema.SchemaError> =>
  Exit.map(worker.spec.decodeArgs(row.args), (args) => toJob(row, queue, args))

const toJob = (row: ClaimedRow, queue: string, args: unknown): Job => new ClaimedJob(row, queue, args)

/** A job over its row: what few handlers ask for is made when they do. */
class ClaimedJob implements Job {
  readonly id: JobId
  readonly worker: string
  readonly queue: string
  readonly args: unknown
  readonly attempt: number
  readonly maxAttempts: number
  readonly priority: number
  readonly lease: number
  readonly #row: ClaimedRow

  constructor(row: ClaimedRow, queue: string, args: unknown) {
    // What identifies a row of the table is an id.
    this.id = row.id as JobId
    this.worker = row.worker
    this.queue = queue
    this.args = args
    this.attempt = row.attempt
    this.maxAttempts = row.max_attempts
    this.priority = row.priority
    this.lease = row.lease
    this.#row = row
  }

  get tags(): Job["tags"] {
    return this.#row.tags ?? []
  }

  get meta(): Job["meta"] {
    // What `jsonb` gives is JSON.
    return (this.#row.meta ?? {}) as Job["meta"]
  }

  get insertedAt(): DateTime.Utc {
    return DateTime.fromDateUnsafe(this.#row.inserted_at)
  }

  get scheduledAt(): DateTime.Utc {
    return DateTime.fromDateUnsafe(this.#row.scheduled_at)
  }

  get attemptedAt(): DateTime.Utc {
    return DateTime.fromDateUnsafe(this.#row.attempted_at)
  }

  get cron(): CronTick | undefined {
    const { cron_at, cron_name } = this.#row
    return cron_name === null || cron_at === null ? undefined : { name: cron_name, at: DateTime.fromDateUnsafe(cron_at) }
  }
}

/** The handler's effect: within its timeout, in a span that goes on with the enqueuer's trace, with the job in its logs. */
export const run = (worker: Worker, job: Job, trace: string | null): Effect.Effect<unknown, unknown> => {
  const { spec } = worker
  const handled = Effect.suspend(() => worker.run(job))
  const limited =
    spec.timeout === undefined
      ? handled
      : Effect.timeoutOrElse(handled, {
          duration: spec.timeout,
          orElse: () => Effect.fail(new JobTimeout({ after: spec.timeout ?? Duration.zero }))
        })
  return Effect.withSpan(limited, `job ${job.worker}`, {
    kind: "consumer",
    captureStackTrace: false,
    ...parentOf(trace),
    attributes: {
      "messaging.system": "coppice",
      "messaging.destination.name": job.queue,
      "messaging.message.id": String(job.id),
      "coppice.job.worker": job.worker,
      "coppice.job.attempt": job.attempt
    }
  })
}

const parentOf = (trace: string | null): { readonly root: true } | { readonly parent: Tracer.ExternalSpan } => {
  const span = trace === null ? Option.none() : HttpTraceContext.w3c(Headers.fromRecordUnsafe({ traceparent: trace }))
  return Option.isSome(span) ? { parent: span.value } : { root: true }
}

/** The services of a job's fiber: those of the queue, with the job in the log annotations. */
export const servicesOf = (services: Context.Context<never>, job: Job): Context.Context<never> =>
  Context.add(services, References.CurrentLogAnnotations, {
    ...Context.get(services, References.CurrentLogAnnotations),
    job: job.id,
    worker: job.worker,
    queue: job.queue,
    attempt: job.attempt
  })

/** What an ended attempt is to become. */
export interface Verdict {
  readonly line: Line
  readonly kind: "completed" | "failed" | "snoozed" | "cancelled" | "discarded" | "handed back"
  readonly message: string
  readonly delay: Duration.Duration
}

type Ending = Omit<Verdict, "line"> & { readonly line: Omit<Line, "id" | "lease"> }

/** Args that do not fit are not tried again: they will not fit tomorrow. */
export const invalidArgs = (row: ClaimedRow, node: string, error: Schema.SchemaError): Verdict =>
  verdict(row, failed("discarded", "invalid args", `The args do not fit their schema: ${error.message}`, node))

/** The verdict on a handler's exit. */
export const judge = (
  worker: Worker,
  row: ClaimedRow,
  node: string,
  exit: Exit.Exit<unknown, unknown>,
  interruption: Interruption | undefined
): Effect.Effect<Verdict> => {
  if (Exit.isSuccess(exit)) return Effect.succeed(verdict(row, succeeded(worker, exit.value, node)))
  const { cause } = exit
  if (interruption !== undefined && Cause.hasInterrupts(cause)) {
    return Effect.succeed(
      verdict(
        row,
        interruption === "cancel"
          ? failed("cancelled", "cancelled", "Cancelled on request while it ran", node)
          : handedBack
      )
    )
  }
  const error = Cause.squash(cause)
  if (error instanceof Cancel) {
    return Effect.succeed(verdict(row, failed("cancelled", "cancelled", error.reason, node)))
  }
  if (error instanceof Discard) {
    return Effect.succeed(verdict(row, failed("discarded", "discarded", error.reason, node)))
  }
  if (error instanceof Snooze) return Effect.succeed(verdict(row, snoozed(error.duration)))
  return Effect.map(backoffOf(worker, row, cause, error), ({ delay, problem }) => {
    const ending = failed("retryable", kindOf(cause, error), `${Cause.pretty(cause)}${problem}`, node)
    return verdict(row, { ...ending, delay, line: { ...ending.line, delayMillis: Duration.toMillis(delay) } })
  })
}

/** Gives a job back that was not tried. */
export const handBack = (row: ClaimedRow): Verdict => verdict(row, handedBack)

const verdict = (row: ClaimedRow, ending: Ending): Verdict => ({
  ...ending,
  line: { ...ending.line, id: row.id, lease: row.lease }
})

const succeeded = (worker: Worker, value: unknown, node: string): Ending => {
  const { encodeResult } = worker.spec
  const completed: Ending = { kind: "completed", message: "", delay: Duration.zero, line: { to: "completed" } }
  if (encodeResult === undefined) return completed
  const encoded = encodeResult(value)
  // What the handler did is done: an answer that cannot be kept must not do it again.
  const problem = Exit.isFailure(encoded)
    ? `do not fit its schema: ${Cause.pretty(encoded.cause)}`
    : findUnstorable(encoded.value, "result")?.problem
  return problem !== undefined || Exit.isFailure(encoded)
    ? {
        ...completed,
        line: {
          to: "completed",
          error: entry("result not recorded", `The result could not be recorded: it ${problem}`, node)
        }
      }
    : // What `toCodecJson` encodes to is JSON.
      { ...completed, line: { to: "completed", result: encoded.value as Schema.Json } }
}

const failed = (to: "retryable" | "cancelled" | "discarded", kind: string, message: string, node: string): Ending => ({
  kind: to === "retryable" ? "failed" : to,
  message,
  delay: Duration.zero,
  line: { to, error: entry(kind, message, node) }
})

const snoozed = (duration: Duration.Duration): Ending => ({
  kind: "snoozed",
  message: "",
  delay: duration,
  line: { to: "scheduled", delayMillis: Duration.toMillis(duration), restoreAttempt: true }
})

const handedBack: Ending = {
  kind: "handed back",
  message: "",
  delay: Duration.zero,
  line: { to: "available", restoreAttempt: true }
}

const entry = (kind: string, message: string, node: string) => ({
  kind,
  message: storable(message, messageLimit),
  node: storable(node, 200)
})

const kindOf = (cause: Cause.Cause<unknown>, error: unknown): string =>
  error instanceof JobTimeout
    ? "timed out"
    : Cause.hasFails(cause)
      ? "failed"
      : Cause.hasDies(cause)
        ? "died"
        : "interrupted"

/** The worker's backoff, or the default where it has none or is broken. */
const backoffOf = Effect.fnUntraced(function* (
  worker: Worker,
  row: ClaimedRow,
  cause: Cause.Cause<unknown>,
  error: unknown
) {
  const { attempt, max_attempts: maxAttempts } = row
  const usual = Effect.map(defaultBackoff(attempt, maxAttempts), (delay) => ({ delay, problem: "" }))
  const { backoff } = worker.spec
  if (backoff === undefined) return yield* usual
  const chosen = yield* Effect.exit(
    Effect.sync(() => Duration.fromInputUnsafe(backoff({ attempt, maxAttempts, error, cause })))
  )
  if (Exit.isSuccess(chosen) && Duration.isFinite(chosen.value)) return { delay: chosen.value, problem: "" }
  const why = Exit.isFailure(chosen) ? Cause.pretty(chosen.cause) : "it is not finite"
  return { ...(yield* usual), problem: `\n(and its backoff could not be used: ${why})` }
})
