/**
 * One attempt of one job: from the claimed row to what is to be written of it.
 */
import { Cause, Context, DateTime, Duration, Effect, Exit, Option, References, type Schema, Tracer } from "effect"
import { Headers, HttpTraceContext } from "effect/http"
import { Cancel, Discard, JobTimeout, type Job, type JobId, Snooze } from "../Job.ts"
import { defaultBackoff, type Running as Worker } from "../Worker.ts"
import type { ClaimedRow } from "./claim.ts"
import { textOf } from "./failureText.ts"
import { findUnstorable, storable } from "./json.ts"
import type { Line } from "./settle.ts"

/** Why a handler was interrupted from outside. */
export type Interruption = "shutdown" | "cancel" | "lost"

/** The longest error text that is kept. */
const messageLimit = 8_000

/** The largest result that is recorded, in characters of JSON. */
const resultLimit = 10_000_000

/** A job is not put off for longer than this: a hundred years. Times far beyond cannot be stored. */
const longestDelayMillis = 100 * 365 * 86_400_000

/** A job that snoozes for no time at all would keep the queue busy with itself. */
const shortestSnooze = Duration.seconds(1)

/** The job as its handler sees it; fails where the args do not fit the worker's schema. */
export const decode = (worker: Worker, row: ClaimedRow, queue: string): Exit.Exit<Job, Schema.SchemaError> =>
  Exit.map(worker.spec.decodeArgs(row.args), (args) => toJob(row, queue, args))

const toJob = (row: ClaimedRow, queue: string, args: unknown): Job => ({
  // What identifies a row of the table is an id.
  id: row.id as JobId,
  worker: row.worker,
  queue,
  args,
  attempt: row.attempt,
  maxAttempts: row.max_attempts,
  priority: row.priority,
  tags: row.tags ?? [],
  // What `jsonb` gives is JSON.
  meta: (row.meta ?? {}) as Job["meta"],
  lease: row.lease,
  insertedAt: DateTime.fromDateUnsafe(row.inserted_at),
  scheduledAt: DateTime.fromDateUnsafe(row.scheduled_at),
  attemptedAt: DateTime.fromDateUnsafe(row.attempted_at),
  cron:
    row.cron_name === null || row.cron_at === null
      ? undefined
      : { name: row.cron_name, at: DateTime.fromDateUnsafe(row.cron_at) }
})

/** The handler's effect: within its timeout, in a span that goes on with the enqueuer's trace, with the job in its logs. */
export const run = <R = never>(
  worker: Worker,
  job: Job,
  trace: string | null,
  handle: (job: Job) => Effect.Effect<unknown, unknown, R> = worker.run
): Effect.Effect<unknown, unknown, R> => {
  const { spec } = worker
  const handled = Effect.suspend(() => handle(job))
  const limited =
    spec.timeout === undefined
      ? handled
      : Effect.timeoutOrElse(handled, {
          duration: spec.timeout,
          orElse: () => Effect.fail(new JobTimeout({ after: spec.timeout ?? Duration.zero }))
        })
  return Effect.useSpan(
    `job ${job.worker}`,
    {
      kind: "consumer",
      ...parentOf(trace),
      attributes: {
        "messaging.system": "coppice",
        "messaging.destination.name": job.queue,
        "messaging.message.id": String(job.id),
        "coppice.job.worker": job.worker,
        "coppice.job.attempt": job.attempt
      }
    },
    (span) => Effect.provideService(limited, Tracer.ParentSpan, span)
  )
}

const parentOf = (trace: string | null): { readonly root: true } | { readonly parent: Tracer.ExternalSpan } => {
  const span = trace === null ? Option.none() : HttpTraceContext.w3c(Headers.fromRecordUnsafe({ traceparent: trace }))
  return Option.isSome(span) ? { parent: span.value } : { root: true }
}

/** The services of a job's fiber: those of the queue, with the job in the log annotations. */
export const servicesOf = <R>(services: Context.Context<R>, job: Job): Context.Context<R> =>
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
  /** About how many characters it takes to write it. */
  readonly size: number
}

type Ending = Omit<Verdict, "line"> & { readonly line: Omit<Line, "id" | "lease"> }

/** Args that do not fit are not tried again: they will not fit tomorrow. */
export const invalidArgs = (row: ClaimedRow, node: string, error: Schema.SchemaError): Verdict =>
  verdict(row, failed("discarded", "invalid args", `The args do not fit their schema: ${error.message}`, node))

/** The verdict on a handler's exit. Never fails, whatever it is that the handler ended with. */
export const judge = (
  worker: Worker,
  row: ClaimedRow,
  node: string,
  exit: Exit.Exit<unknown, unknown>,
  interruption: Interruption | undefined
): Effect.Effect<Verdict> =>
  Exit.isSuccess(exit)
    ? Effect.sync(() => verdict(row, succeeded(worker, exit.value, node)))
    : Effect.catchCause(
        Effect.suspend(() => judgeFailure(worker, row, node, exit.cause, interruption)),
        // An error may be anything, and may throw when it is asked what it is.
        () =>
          Effect.map(defaultBackoff(row.attempt, row.max_attempts), (delay) =>
            verdict(row, retryable(kindOf(exit.cause), textOf(exit.cause, messageLimit), delay, node))
          )
      )

const judgeFailure = (
  worker: Worker,
  row: ClaimedRow,
  node: string,
  cause: Cause.Cause<unknown>,
  interruption: Interruption | undefined
): Effect.Effect<Verdict> => {
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
  const isSnooze = error instanceof Snooze
  if (isSnooze && isPossible(error.duration)) return Effect.succeed(verdict(row, snoozed(error.duration)))
  const text = isSnooze
    ? `The job cannot snooze for ${Duration.format(error.duration)}: give a duration of at most 100 years`
    : textOf(cause, messageLimit)
  const kind = error instanceof JobTimeout ? "timed out" : kindOf(cause)
  return Effect.map(backoffOf(worker, row, cause, error), ({ delay, problem }) =>
    verdict(row, retryable(kind, `${text}${problem}`, delay, node))
  )
}

/** Gives a job back that was not tried. */
export const handBack = (row: ClaimedRow): Verdict => verdict(row, handedBack)

const verdict = (row: ClaimedRow, ending: Ending): Verdict => ({
  ...ending,
  line: { ...ending.line, id: row.id, lease: row.lease }
})

const succeeded = (worker: Worker, value: unknown, node: string): Ending => {
  const { encodeResult } = worker.spec
  if (encodeResult === undefined) return completed
  // What the handler did is done: an answer that cannot be kept must not do it again.
  const unrecorded = (problem: string): Ending => ({
    ...completed,
    line: {
      to: "completed",
      error: entry("result not recorded", `The result could not be recorded: it ${problem}`, node)
    }
  })
  try {
    const encoded = encodeResult(value)
    if (Exit.isFailure(encoded)) return unrecorded(`does not fit its schema: ${textOf(encoded.cause, messageLimit)}`)
    const found = findUnstorable(encoded.value, "result")
    if (found !== undefined) return unrecorded(`cannot be stored, because ${found.path} ${found.problem}`)
    const size = JSON.stringify(encoded.value).length
    if (size > resultLimit) return unrecorded(`is ${size} characters of JSON, and at most ${resultLimit} are kept`)
    // What `toCodecJson` encodes to is JSON.
    return { ...completed, size, line: { to: "completed", result: encoded.value as Schema.Json } }
  } catch (cause) {
    return unrecorded(`threw when it was looked at: ${textOf(Cause.die(cause), messageLimit)}`)
  }
}

const completed: Ending = { kind: "completed", message: "", delay: Duration.zero, size: 0, line: { to: "completed" } }

const failed = (to: "retryable" | "cancelled" | "discarded", kind: string, text: string, node: string): Ending => {
  const error = entry(kind, text, node)
  return {
    kind: to === "retryable" ? "failed" : to,
    message: error.message,
    delay: Duration.zero,
    size: error.message.length,
    line: { to, error }
  }
}

const retryable = (kind: string, text: string, delay: Duration.Duration, node: string): Ending => {
  const ending = failed("retryable", kind, text, node)
  return { ...ending, delay, line: { ...ending.line, delayMillis: Duration.toMillis(delay) } }
}

const snoozed = (duration: Duration.Duration): Ending => {
  const delay = Duration.toMillis(duration) > 0 ? duration : shortestSnooze
  return {
    ...handedBack,
    kind: "snoozed",
    delay,
    line: { to: "scheduled", delayMillis: Duration.toMillis(delay), restoreAttempt: true }
  }
}

const isPossible = (delay: Duration.Duration): boolean => Duration.toMillis(delay) <= longestDelayMillis

const handedBack: Ending = {
  kind: "handed back",
  message: "",
  delay: Duration.zero,
  size: 0,
  line: { to: "available", restoreAttempt: true }
}

const entry = (kind: string, message: string, node: string) => ({
  kind,
  message: storable(message, messageLimit),
  node: storable(node, 200)
})

const kindOf = (cause: Cause.Cause<unknown>): string =>
  Cause.hasFails(cause) ? "failed" : Cause.hasDies(cause) ? "died" : "interrupted"

/** The job holds its slot and its lease meanwhile. */
const backoffTimeout = "5 seconds"

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
    Effect.timeoutOrElse(
      Effect.suspend(() => {
        const wanted = backoff({ attempt, maxAttempts, error, cause })
        return Effect.map(Effect.isEffect(wanted) ? wanted : Effect.succeed(wanted), Duration.fromInputUnsafe)
      }),
      { duration: backoffTimeout, orElse: () => Effect.die(new Error(`It did not answer within ${backoffTimeout}`)) }
    )
  )
  if (Exit.isSuccess(chosen) && isPossible(chosen.value)) return { delay: chosen.value, problem: "" }
  const why = Exit.isFailure(chosen) ? textOf(chosen.cause, messageLimit) : "it is more than 100 years"
  return { ...(yield* usual), problem: `\n(and its backoff could not be used: ${why})` }
})
