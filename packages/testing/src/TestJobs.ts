/**
 * Testing code that enqueues jobs, and the workers that run them. What users of `Oban.Testing` look for.
 *
 * - `layerManual`: nothing runs by itself. `assertEnqueued` looks at what is enqueued, `drain` runs it, `advance` lets
 *   virtual time pass, and what becomes due in it runs at its instant.
 * - `layerInline`: whoever enqueues a job runs it.
 * - `perform`: one worker alone, without a database.
 *
 * Both layers stand on the `SqlClient` that is there: on PGlite, and in a sandbox, so that tests share a database and leave
 * nothing in it. Everything is an effect, and needs no test framework.
 */
import { type Job, Jobs, JobsConfig, type NewJob, Runner, type Worker } from "@coppice/jobs"
import type { Pglite } from "@coppice/postgres"
import { Clock, type DateTime, Duration, Effect, Exit, Layer, Schema } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { decodedArgs, differences, type Expectation, statesOf } from "./internal/expectation.ts"
import * as Report from "./internal/report.ts"
import { layer as timeline, Timeline } from "./internal/timeline.ts"

// --------------------------------------------------------------------------------------------------------------------
// types
// --------------------------------------------------------------------------------------------------------------------

/**
 * What is expected of a value: the value, a predicate, or the same of parts of it. Objects may have more fields than are
 * expected; lists are as long as expected.
 */
export type Expect<A> =
  | A
  | ((found: A) => boolean)
  | (A extends string | number | boolean | bigint | symbol | null | undefined
      ? never
      : A extends ReadonlyArray<infer Item>
        ? ReadonlyArray<Expect<Item>>
        : A extends object
          ? { readonly [K in keyof A]?: Expect<A[K]> | undefined }
          : never)

/** What is expected of a job; what is left out does not matter. */
export interface Expected<Args> {
  /** As the worker's handler sees them. */
  readonly args?: Expect<Args> | undefined
  readonly queue?: string | undefined
  readonly priority?: number | undefined
  readonly maxAttempts?: number | undefined
  /** Tags that are among the job's. */
  readonly tags?: ReadonlyArray<string> | undefined
  readonly meta?: Readonly<Record<string, Expect<Schema.Json>>> | undefined
  /** Defaults to `available` and `scheduled`. */
  readonly state?: Job.State | ReadonlyArray<Job.State> | undefined
  readonly scheduledAt?: DateTime.DateTime.Input | undefined
  /** Counted from when the job was inserted. */
  readonly scheduledIn?: Duration.Input | undefined
  /** How far `scheduledAt` and `scheduledIn` may be off. Defaults to 1 second. */
  readonly delta?: Duration.Input | undefined
}

/** How long an assertion may wait. */
export interface Waiting {
  /** In real time: virtual time does not pass meanwhile. Defaults to not at all. */
  readonly within?: Duration.Input | undefined
}

/** A job with its args as the worker's handler sees them. */
export interface Enqueued<Args> extends Omit<Job.JobRecord, "args"> {
  readonly args: Args
}

/** The time in which the jobs of `layerManual` run. */
export { Timeline }

// --------------------------------------------------------------------------------------------------------------------
// errors
// --------------------------------------------------------------------------------------------------------------------

/** What is enqueued is not what was expected. The message shows what there is. */
export class AssertionFailed extends Schema.TaggedError<AssertionFailed>("@coppice/testing/AssertionFailed")(
  "AssertionFailed",
  { worker: Schema.String, text: Schema.String }
) {
  override get message(): string {
    return this.text
  }
}

// --------------------------------------------------------------------------------------------------------------------
// layers
// --------------------------------------------------------------------------------------------------------------------

/**
 * Jobs that run when the test says so, on Effect's clock. Creates the tables if they are not there.
 *
 * Its `SqlClient` is that of the test: in a sandbox it belongs above `Sandbox.layer`.
 *
 * ```ts
 * import { Worker } from "@coppice/jobs"
 * import { Postgres } from "@coppice/postgres"
 * import { TestJobs } from "@coppice/testing"
 * import { Effect, Layer, Schema } from "effect"
 *
 * class Greet extends Worker.Service<Greet>()("Greet", { args: { name: Schema.String } }) {
 *   static readonly layer = this.toLayer(Effect.succeed(({ args }) => Effect.log(`Hello, ${args.name}`)))
 * }
 *
 * export const test = Effect.gen(function*() {
 *   yield* Greet.enqueue({ name: "Ada" }, { scheduleIn: "1 hour" })
 *   yield* TestJobs.assertEnqueued(Greet, { args: { name: "Ada" }, scheduledIn: "1 hour" })
 *   const { completed } = yield* TestJobs.advance("2 hours")
 *   return completed
 * }).pipe(Effect.provide(Layer.provideMerge(TestJobs.layerManual({ workers: [Greet.layer] }), Postgres.layerTest)))
 * ```
 */
export const layerManual = <const Workers extends ReadonlyArray<Layer.Any>>(
  options: Runner.Options<Workers>
): ManualLayer<Workers> =>
  // The layer is that of the runner, with one service more.
  timeline.pipe(Layer.provideMerge(Runner.layer(options)), Layer.provide(virtual)) as ManualLayer<Workers>

/**
 * Jobs that run where they are enqueued, before `enqueue` returns; those of a transaction when it has committed, and not at
 * all if it rolls back.
 *
 * They go through the database: args are encoded and decoded, unique jobs conflict, and the history has them. Each has one
 * attempt, at once, whenever it is scheduled for. One that fails is recorded as `discarded`, and whoever enqueued it goes on,
 * as in production; one that snoozes ends as `cancelled`. A defect is a bug, and is not kept quiet: it ends whoever enqueued
 * the job, or, after a commit, the layer when it closes.
 *
 * A job of a worker that is not among those of the layer is a defect as well, because nobody would ever run it.
 */
export const layerInline = <const Workers extends ReadonlyArray<Layer.Any>>(
  options: Runner.Options<Workers>
): Runner.RunnerLayer<Workers> => Layer.provide(Runner.layerInline(options), virtual)

const virtual = Layer.succeed(JobsConfig.TimeSource, "clock")

/** The layer of a runner, and of the time in which it runs. */
export type ManualLayer<Workers extends ReadonlyArray<Layer.Any>> =
  Runner.RunnerLayer<Workers> extends Layer.Layer<infer A, infer E, infer R> ? Layer.Layer<A | Timeline, E, R> : never

// --------------------------------------------------------------------------------------------------------------------
// assertions
// --------------------------------------------------------------------------------------------------------------------

/**
 * Answers the newest job that is as expected, or fails with a text that shows which jobs come near, and where they differ.
 *
 * As Oban's `assert_enqueued`.
 */
export const assertEnqueued = <Self, Name extends string, Args, Result>(
  worker: Worker.WorkerClass<Self, Name, Args, Result>,
  expected: Expected<Args> = {},
  options: Waiting = {}
): Effect.Effect<Enqueued<Args>, AssertionFailed | SqlError, Jobs.Jobs> =>
  Effect.flatMap(
    until(allEnqueued(worker, expected), (found) => found.length > 0, options),
    ([first]) => (first === undefined ? missing(worker.spec, expected) : Effect.succeed(first))
  )

/**
 * Fails if there is a job as described. With `within` it looks for all of that time.
 *
 * As Oban's `refute_enqueued`.
 */
export const refuteEnqueued = <Self, Name extends string, Args, Result>(
  worker: Worker.WorkerClass<Self, Name, Args, Result>,
  expected: Expected<Args> = {},
  options: Waiting = {}
): Effect.Effect<void, AssertionFailed | SqlError, Jobs.Jobs> =>
  Effect.flatMap(
    until(matching(worker.spec, expected), (found) => found.length > 0, options),
    (found) => (found.length === 0 ? Effect.void : fail(worker.spec, Report.present(worker.spec, expected, found)))
  )

/** All jobs that are as expected, newest first. As Oban's `all_enqueued`. */
export const allEnqueued = <Self, Name extends string, Args, Result>(
  worker: Worker.WorkerClass<Self, Name, Args, Result>,
  expected: Expected<Args> = {}
): Effect.Effect<ReadonlyArray<Enqueued<Args>>, SqlError, Jobs.Jobs> =>
  Effect.map(matching(worker.spec, expected), (jobs) =>
    jobs.flatMap((job) => {
      const args = decodedArgs(worker.spec, job)
      // The schema of the worker has decoded them.
      return Exit.isSuccess(args) ? [{ ...job, args: args.value as Args }] : []
    })
  )

// --------------------------------------------------------------------------------------------------------------------
// one worker alone
// --------------------------------------------------------------------------------------------------------------------

/** What else may be said of the job that `perform` runs. */
export interface PerformOptions extends Runner.Attempted {
  readonly queue?: string | undefined
  readonly priority?: number | undefined
  readonly maxAttempts?: number | undefined
  readonly tags?: ReadonlyArray<string> | undefined
  readonly meta?: Readonly<Record<string, Schema.Json>> | undefined
}

/**
 * Runs a worker's handler once, without a database, and answers how it ended. It needs the worker's layer alone.
 *
 * The args are encoded, become JSON, and are decoded; the handler has its timeout and its span, as in a queue. Args that do
 * not fit their schema, or that the database could not store, fail with `InvalidJob`, and an answer that could not be
 * recorded with `InvalidResult`. As Oban's `perform_job`.
 *
 * ```ts
 * import { Job, Worker } from "@coppice/jobs"
 * import { TestJobs } from "@coppice/testing"
 * import { Effect, Schema } from "effect"
 *
 * class Divide extends Worker.Service<Divide>()("Divide", { args: { a: Schema.Int, b: Schema.Int } }) {
 *   static readonly layer = this.toLayer(
 *     Effect.succeed(({ args: { a, b } }) => (b === 0 ? Job.cancel("division by zero") : Effect.log(a / b)))
 *   )
 * }
 *
 * // { _tag: "Cancelled", reason: "division by zero" }
 * export const outcome = TestJobs.perform(Divide, { a: 1, b: 0 }).pipe(Effect.provide(Divide.layer))
 * ```
 */
export const perform = <Self, Name extends string, Args, Result>(
  worker: Worker.WorkerClass<Self, Name, Args, Result>,
  args: Args,
  { attempt, id, ...options }: PerformOptions = {}
): Effect.Effect<Runner.Outcome<Result>, NewJob.InvalidJob | Runner.InvalidResult, Self> =>
  Effect.flatMap(
    worker,
    (running) =>
      // What a worker's handler answers, its type says.
      Runner.attempt(running, worker.job(args, options), { attempt, id }) as Effect.Effect<
        Runner.Outcome<Result>,
        NewJob.InvalidJob | Runner.InvalidResult
      >
  )

// --------------------------------------------------------------------------------------------------------------------
// running
// --------------------------------------------------------------------------------------------------------------------

/** Runs what is enqueued, and answers how many ended how. As Oban's `drain_queue`; see `Runner.DrainOptions`. */
export const drain = <const O extends Runner.DrainOptions = {}>(
  options?: O
): Effect.Effect<Runner.Drained, Runner.DrainFailure<O>, Runner.Runner> =>
  Effect.flatMap(Runner.Runner, (runner) => runner.drain(options))

/**
 * Lets virtual time pass. What becomes due in it runs at its instant: scheduled jobs, retries, and what jobs and other
 * fibers enqueue. A job that sleeps wakes up on the way, or goes on at the next `advance`.
 *
 * Answers how many attempts ended how. It stands on PGlite, where a query takes no time, and not in a transaction, which
 * its jobs could outlive.
 */
export const advance = (
  duration: Duration.Input
): Effect.Effect<Runner.Drained, Runner.Endless | SqlError, Timeline | Pglite.Pglite> =>
  Effect.flatMap(Timeline, (timeline) => timeline.advance(duration))

// --------------------------------------------------------------------------------------------------------------------

const matching = (spec: Worker.Spec, expected: Expectation) =>
  Effect.map(list({ worker: spec.name, state: statesOf(expected) }), (jobs) =>
    jobs.filter((job) => differences(expected, spec, job).length === 0)
  )

const missing = (spec: Worker.Spec, expected: Expectation) =>
  Effect.flatMap(Jobs.Jobs, ({ list }) =>
    // The newest will tell.
    Effect.flatMap(list({}, { limit: page }), (jobs) => fail(spec, Report.missing(spec, expected, jobs)))
  )

const fail = (spec: Worker.Spec, text: string) => Effect.fail(new AssertionFailed({ worker: spec.name, text }))

const page = 1_000

const list = Effect.fnUntraced(function* (filter: Jobs.Filter) {
  const jobs = yield* Jobs.Jobs
  const all: Array<Job.JobRecord> = []
  while (true) {
    const some = yield* jobs.list(filter, { limit: page, before: all.at(-1)?.id })
    all.push(...some)
    if (some.length < page) return all
  }
})

const pauseMillis = 10

/** Asks until the answer will do, or for so long; by the live clock, because what is waited for may take real time. */
const until = <A, E, R>(
  ask: Effect.Effect<A, E, R>,
  done: (answer: A) => boolean,
  { within }: Waiting
): Effect.Effect<A, E, R> => {
  if (within === undefined) return ask
  const live = Clock.Clock.defaultValue()
  const pause = Effect.provideService(Effect.sleep(pauseMillis), Clock.Clock, live)
  return Effect.gen(function* () {
    const end = live.currentTimeMillisUnsafe() + Duration.toMillis(Duration.fromInputUnsafe(within))
    while (true) {
      const answer = yield* ask
      if (done(answer) || live.currentTimeMillisUnsafe() >= end) return answer
      yield* pause
    }
  })
}
