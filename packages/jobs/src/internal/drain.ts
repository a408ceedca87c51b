/**
 * Running many jobs on demand.
 */
import { Cause, Clock, DateTime, Duration, Effect, Schema } from "effect"
import { JobId } from "../Job.ts"
import type { DrainFailure, Drained, DrainOptions, Ran, Shape } from "../Runner.ts"
import type { Node, Runner } from "./runner.ts"

/** A job failed in a drain without safety. */
export class JobFailed extends Schema.TaggedError<JobFailed>("@coppice/jobs/Runner/JobFailed")("JobFailed", {
  id: JobId,
  worker: Schema.String,
  attempt: Schema.Int,
  cause: Schema.Cause(Schema.Unknown, Schema.Unknown)
}) {
  override get message(): string {
    return `Job ${this.id} of ${this.worker} failed at attempt ${this.attempt}: ${Cause.pretty(this.cause)}`
  }
}

/** Jobs go on making jobs. */
export class Endless extends Schema.TaggedError<Endless>("@coppice/jobs/Runner/Endless")("Endless", {
  ran: Schema.Int,
  /** Of the last one. */
  worker: Schema.String
}) {
  override get message(): string {
    return (
      `${this.ran} jobs became available while the queue was drained, each after one before, the last one of ${this.worker},`
      + " and there are more:"
      + " does a job enqueue itself? Give the drain a limit, or call it without withRecursion"
    )
  }
}

/** So many generations of jobs, and so many jobs, may come of jobs before it looks as if they would never end. */
const generations = 100
const descendants = 10_000

export const make = (runner: Runner): Shape => ({
  drain: <const O extends DrainOptions = {}>(options?: O) =>
    // `JobFailed` is a failure of those options alone that do not exclude it.
    runner.asNode((node) => drain(runner, node, options ?? {})) as Effect.Effect<Drained, DrainFailure<O>>,
  runOne: (queue) => runner.asNode((node) => next(runner, node, queue)),
  run: (id) => runner.asNode((node) => runner.runOne(node, id, true, "keep")),
  stage: Effect.map(runner.stage, (millis) => (millis === undefined ? undefined : Duration.millis(Math.ceil(millis))))
})

const drain = Effect.fnUntraced(function* (runner: Runner, node: Node, options: DrainOptions) {
  const { limit, queue, withRecursion = false, withSafety = true, withScheduled = false } = options
  const concurrency = (yield* runner.inTransaction) ? 1 : Math.max(1, options.concurrency ?? 1)
  const counts = { ...nothing }
  let last = ""
  let ran = 0
  let staged = Number.NEGATIVE_INFINITY
  const runOne = (id: number) =>
    Effect.flatMap(runner.runOne(node, id, false, "keep"), (job) => {
      if (job === undefined) return Effect.void
      ran++
      last = job.worker
      count(counts, job)
      const failure = withSafety ? undefined : failureOf(job)
      return failure === undefined ? Effect.void : Effect.fail(failure)
    })
  const timePassed = Effect.map(Clock.currentTimeMillis, (now) => {
    const since = staged
    staged = now
    return !runner.virtual || since !== now
  })
  /** Answers how many jobs it ran. */
  const round = Effect.gen(function* () {
    const before = ran
    if (yield* timePassed) yield* runner.stage
    if (withScheduled !== false) yield* runner.stageEarly(untilOf(withScheduled), queue)
    const left = limit === undefined ? undefined : Math.max(0, Math.floor(limit - ran))
    const { ids, unclaimable } = yield* runner.candidates(queue, runner.known, left)
    counts.unclaimable = unclaimable
    yield* Effect.forEach(ids, runOne, { concurrency, discard: true })
    return ran - before
  })
  const again = Effect.suspend(() =>
    limit !== undefined && ran >= limit ? Effect.succeed(false) : Effect.map(round, (count) => count > 0)
  )
  const first = yield* round
  if (!withRecursion || first === 0) return counts
  for (let generation = 1; yield* again; generation++) {
    const more = ran - first
    if (limit === undefined && (generation >= generations || more >= descendants)) {
      return yield* new Endless({ ran: more, worker: last })
    }
  }
  return counts
})

const next = Effect.fnUntraced(function* (runner: Runner, node: Node, queue: string | undefined) {
  yield* runner.stage
  // Others may be quicker: then the one after it.
  const { ids } = yield* runner.candidates(queue, runner.known, 100)
  for (const id of ids) {
    const ran = yield* runner.runOne(node, id, false, "keep")
    if (ran !== undefined) return ran
  }
  return undefined
})

const nothing: Drained = {
  completed: 0,
  retryable: 0,
  discarded: 0,
  cancelled: 0,
  snoozed: 0,
  lost: 0,
  unclaimable: 0
}

const count = (counts: { -readonly [K in keyof Drained]: Drained[K] }, { outcome, state }: Ran): void => {
  switch (state) {
    case "completed":
    case "discarded":
    case "cancelled":
    case "lost":
      counts[state]++
      return
    default:
      if (outcome._tag === "Snoozed") counts.snoozed++
      else if (outcome._tag === "Failed") counts.retryable++
  }
}

const failureOf = ({ attempt, id, outcome, worker }: Ran): JobFailed | undefined =>
  outcome._tag === "Failed" ? new JobFailed({ id, worker, attempt, cause: outcome.cause }) : undefined

const untilOf = (withScheduled: true | DateTime.DateTime.Input): Date | undefined =>
  withScheduled === true ? undefined : DateTime.toDateUtc(DateTime.makeUnsafe(withScheduled))
