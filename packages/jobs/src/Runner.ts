/**
 * Running jobs on demand: for tests, scripts, and workers that end when nothing is left to do.
 *
 * A runner has no queues, no loops and no connections of its own. `drain` runs what is there, one job after the other,
 * and answers what became of it; nothing runs in between. All else is as on a node of `Jobs.layer`: claims are fenced,
 * handlers have their timeout and their span, endings are written and told of. While it drains, the runner is a node with
 * a heartbeat, and what it was doing when it died is rescued by the other nodes.
 *
 * What is said of queues, that they are paused or limited, is said to nodes. A runner is told what to run, and runs it.
 *
 * As Oban's `drain_queue`, and graphile-worker's `--once`.
 */
import { type Cause, Context, type DateTime, type Duration, Effect, Latch, Layer } from "effect"
import type { MigrationError } from "effect/sql/Migrator"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { hostname } from "node:os"
import { type Attempted, attemptOnce, type InvalidResult } from "./internal/attemptOnce.ts"
import type * as Crontab from "./Crontab.ts"
import * as Drain from "./internal/drain.ts"
import { checkSpec } from "./internal/enqueueRow.ts"
import * as Inline from "./internal/inline.ts"
import { type InvalidOptions, nodeName } from "./internal/options.ts"
import * as Internal from "./internal/runner.ts"
import * as Cron from "./internal/runnerCron.ts"
import * as Start from "./internal/start.ts"
import { type Failure, type Needed, type Provided, workersIn } from "./internal/workers.ts"
import type { JobId, State } from "./Job.ts"
import type { Jobs } from "./Jobs.ts"
import { Jobs as JobsKey } from "./internal/jobsService.ts"
import { TimeSource } from "./JobsConfig.ts"
import * as Migrations from "./Migrations.ts"
import type { InvalidJob, NewJob } from "./NewJob.ts"
import type * as Worker from "./Worker.ts"

// --------------------------------------------------------------------------------------------------------------------
// types
// --------------------------------------------------------------------------------------------------------------------

/** What an attempt ended with. */
export type Outcome<A = unknown> =
  | { readonly _tag: "Completed"; readonly result: A }
  /** A typed failure, a defect, a timeout, or args that do not fit. `retryIn` is undefined if it is not tried again. */
  | { readonly _tag: "Failed"; readonly cause: Cause.Cause<unknown>; readonly retryIn: Duration.Duration | undefined }
  | { readonly _tag: "Cancelled"; readonly reason: string }
  | { readonly _tag: "Discarded"; readonly reason: string }
  | { readonly _tag: "Snoozed"; readonly duration: Duration.Duration }
  /** By whoever asked for the run; the attempt does not count. */
  | { readonly _tag: "Interrupted" }

/** A job that was run. */
export interface Ran {
  readonly id: JobId
  readonly worker: string
  readonly queue: string
  readonly attempt: number
  readonly outcome: Outcome
  /** What it is now; `lost` if somebody else has it, and nothing was written. */
  readonly state: State | "lost"
}

/** What became of the jobs of a drain: how many attempts ended how. */
export interface Drained {
  readonly completed: number
  /** Failed, and to be tried again. */
  readonly retryable: number
  /** Failed for the last time, or discarded. */
  readonly discarded: number
  readonly cancelled: number
  readonly snoozed: number
  /** Taken over by another node meanwhile. */
  readonly lost: number
  /** Left available at the end, because their worker, or their version of its args, is not among those of the layer. */
  readonly unclaimable: number
}

/** What to drain. */
export interface DrainOptions {
  /** Defaults to all queues. */
  readonly queue?: string | undefined
  /** How many attempts at most. Defaults to no limit; but see `withRecursion`. */
  readonly limit?: number | undefined
  /**
   * Whether jobs that become available meanwhile run as well. If jobs make jobs for 100 generations, or 10,000 of them, it
   * fails with `Endless`, unless there is a `limit`. Defaults to `false`: what is available at the beginning.
   */
  readonly withRecursion?: boolean | undefined
  /**
   * Whether to run what is not due yet, retries among it: all of it, or what is due by an instant. Jobs that are due are
   * always run. Defaults to `false`.
   */
  readonly withScheduled?: boolean | DateTime.DateTime.Input | undefined
  /** With `false` the first job that fails fails the drain. What became of the job is written before. Defaults to `true`. */
  readonly withSafety?: boolean | undefined
  /** How many jobs run at once; inside a transaction always one. Defaults to 1. */
  readonly concurrency?: number | undefined
}

/** `JobFailed`, unless the options exclude it. */
export type DrainFailure<O extends DrainOptions> =
  | Drain.Endless
  | SqlError
  | ("withSafety" extends keyof O ? ([O["withSafety"]] extends [true | undefined] ? never : Drain.JobFailed) : never)

/** What the service offers. */
export interface Shape {
  /** Runs what is available and due. */
  readonly drain: <const O extends DrainOptions = {}>(options?: O) => Effect.Effect<Drained, DrainFailure<O>>
  /** Runs the next job that is available and due; undefined if there is none. */
  readonly runOne: (queue?: string) => Effect.Effect<Ran | undefined, SqlError>
  /** Runs a job, for whenever it is scheduled; undefined if it is finished, somebody else has it, or no worker knows it. */
  readonly run: (id: JobId) => Effect.Effect<Ran | undefined, SqlError>
  /**
   * Makes available what is due, and jobs of the crontab. Answers for how long there is no more to do, except for jobs that
   * are enqueued meanwhile; undefined if there never is.
   */
  readonly stage: Effect.Effect<Duration.Duration | undefined, SqlError>
}

// --------------------------------------------------------------------------------------------------------------------
// errors
// --------------------------------------------------------------------------------------------------------------------

export { InvalidResult } from "./internal/attemptOnce.ts"
export { Endless, JobFailed } from "./internal/drain.ts"

// --------------------------------------------------------------------------------------------------------------------
// service
// --------------------------------------------------------------------------------------------------------------------

/** Runs jobs when it is asked to. */
export class Runner extends Context.Service<Runner, Shape>()("@coppice/jobs/Runner") {}

/** What a runner can run. */
export interface Options<Workers extends ReadonlyArray<Layer.Any>> {
  /** The layers of the workers. They may need `Jobs`, which the runner provides. Jobs of others are left as they are. */
  readonly workers: Workers
  /**
   * Jobs by the calendar. With it, if only `[]` for what is said at run time, a drain first makes the jobs of the instants
   * that have come. `@reboot` is for nodes that start queues, and makes none.
   */
  readonly cron?: ReadonlyArray<Crontab.Entry> | undefined
  /** Under which name it is a node, of at most 255 characters. Defaults to the host's name. */
  readonly node?: string | undefined
  /** Whether to create or upgrade the tables first. Defaults to `true`. */
  readonly migrate?: boolean | undefined
}

/** Why a runner cannot be made. */
export type StartFailure =
  | Crontab.InvalidEntry
  | InvalidJob
  | InvalidOptions
  | Migrations.InvalidSchemaName
  | Migrations.SchemaTooNew
  | MigrationError
  | SqlError

/** The layer of a runner with its workers, and of the service to enqueue. */
export type RunnerLayer<Workers extends ReadonlyArray<Layer.Any>> = Layer.Layer<
  Runner | Jobs | Provided<Workers[number]>,
  StartFailure | Failure<Workers[number]>,
  SqlClient | Exclude<Needed<Workers[number]>, Jobs | Provided<Workers[number]>>
>

/**
 * Provides a runner for these workers, and the service to enqueue and to look at jobs.
 *
 * ```ts
 * import { Runner, Worker } from "@coppice/jobs"
 * import { Postgres } from "@coppice/postgres"
 * import { Effect, Layer, Schema } from "effect"
 *
 * class Greet extends Worker.Service<Greet>()("Greet", { args: { name: Schema.String } }) {
 *   static readonly layer = this.toLayer(Effect.succeed(({ args }) => Effect.log(`Hello, ${args.name}`)))
 * }
 *
 * // A script that runs what is there, and ends.
 * export const script = Effect.gen(function*() {
 *   const runner = yield* Runner.Runner
 *   const { completed } = yield* runner.drain({ withRecursion: true, limit: 10_000, concurrency: 10 })
 *   yield* Effect.log(`${completed} jobs`)
 * }).pipe(Effect.provide(Runner.layer({ workers: [Greet.layer] }).pipe(Layer.provide(Postgres.layer))))
 * ```
 */
export const layer = <const Workers extends ReadonlyArray<Layer.Any>>(
  options: Options<Workers>
): RunnerLayer<Workers> => assemble(options, false)

/**
 * The same, but whoever enqueues a job runs it, at once, and no job is left to be run: for tests of what jobs do for those
 * who enqueue them. `TestJobs.layerInline` of `@coppice/testing` says how it behaves.
 */
export const layerInline = <const Workers extends ReadonlyArray<Layer.Any>>(
  options: Options<Workers>
): RunnerLayer<Workers> => assemble(options, true)

/** What may be said of a run without a database. */
export type { Attempted }

/**
 * Runs a worker's handler once, as a queue would, without a database: the args are encoded, taken through JSON and decoded,
 * the handler has its timeout and its span.
 */
export const attempt: (
  worker: Worker.Running,
  job: NewJob,
  as?: Attempted
) => Effect.Effect<Outcome, InvalidJob | InvalidResult> = attemptOnce

// --------------------------------------------------------------------------------------------------------------------

/** What the service to enqueue and the runner have in common. */
class Parts extends Context.Service<Parts, Inline.Parts>()("@coppice/jobs/Runner/Parts") {}

const assemble = <const Workers extends ReadonlyArray<Layer.Any>>(
  options: Options<Workers>,
  inline: boolean
): RunnerLayer<Workers> => {
  const parts = Layer.effectContext(
    Effect.gen(function* () {
      if (options.migrate ?? true) yield* Migrations.run
      const crontab = Latch.makeUnsafe(true)
      const asked = Latch.makeUnsafe(false)
      // On virtual time there are no other processes.
      const alone = (yield* TimeSource) === "clock"
      const { client, hub, jobs } = yield* Start.clientWith(alone, (signal) => {
        if (signal._tag === "Cron") crontab.openUnsafe()
        if (signal._tag === "Cancel") asked.openUnsafe()
      })
      const cron = options.cron === undefined ? undefined : yield* Cron.make(client, options.cron, crontab)
      const parts: Inline.Parts = { asked, client, cron, hub, runner: undefined }
      const service = inline ? yield* Inline.make(jobs, parts) : jobs
      return Context.make(JobsKey, service).pipe(Context.add(Parts, parts))
    })
  )
  const runner = Layer.effect(
    Runner,
    Effect.gen(function* () {
      const parts = yield* Parts
      const workers = yield* workersIn(yield* Effect.context<never>())
      for (const { spec } of workers.values()) {
        const problem = checkSpec(spec)
        if (problem !== undefined) return yield* problem
      }
      const name = yield* nodeName(options.node ?? hostname())
      const runner = Internal.make({ ...parts, workers, name })
      parts.runner = runner
      return Drain.make(runner)
    })
  )
  // The layers of workers are heterogeneous; their types are folded in `RunnerLayer`.
  const workers = options.workers as unknown as ReadonlyArray<Layer.Layer<never>>
  const all = Layer.mergeAll(Layer.empty, ...workers)
  return runner.pipe(Layer.provideMerge(all), Layer.provideMerge(parts)) as never
}
