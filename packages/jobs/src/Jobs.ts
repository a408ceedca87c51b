/**
 * The queue: its service, and the layers that run it.
 *
 * `layer` runs queues and provides the service, `layerClient` provides the service alone. In which schema the tables are,
 * and by which clock jobs are due, say `JobsConfig.SchemaName` and `JobsConfig.TimeSource`.
 */
import type { Supervisor } from "@coppice/supervision"
import type { PgClient } from "@effect/sql-pg"
import { type Duration, type Effect, Layer, type Schema, type Stream } from "effect"
import type { SqlClient } from "effect/sql"
import type { MigrationError } from "effect/sql/Migrator"
import type { SqlError } from "effect/sql/SqlError"
import type * as Crontab from "./Crontab.ts"
import type { JobEvent } from "./JobEvent.ts"
import type { JobId, JobRecord, State } from "./Job.ts"
import type { JobNotFound } from "./internal/care.ts"
import { Jobs } from "./internal/jobsService.ts"
import type { InvalidOptions } from "./internal/options.ts"
import * as Start from "./internal/start.ts"
import type { Failure, Needed, Provided } from "./internal/workers.ts"
import type * as JobLogger from "./JobLogger.ts"
import type * as Migrations from "./Migrations.ts"
import type { Enqueued, InvalidJob, NewJob, Rejected, UniqueBusy } from "./NewJob.ts"
import type * as Queue from "./Queue.ts"
import type * as Retention from "./Retention.ts"

/**
 * Which jobs; what is left out does not matter, and within a list one must match.
 *
 * A filter without fields, or whose fields are all undefined, is every job, also for `cancel`, `retry` and `delete`. An
 * empty list, and what cannot be in the database, such as text with NUL, is none. `args`, `meta` and `tag` have no index.
 */
export interface Filter {
  readonly id?: JobId | ReadonlyArray<JobId> | undefined
  readonly queue?: string | ReadonlyArray<string> | undefined
  readonly worker?: string | ReadonlyArray<string> | undefined
  readonly state?: State | ReadonlyArray<State> | undefined
  readonly tag?: string | undefined
  /** Args that contain this, as `jsonb`'s `@>` decides. */
  readonly args?: Schema.Json | undefined
  readonly meta?: Readonly<Record<string, Schema.Json>> | undefined
}

/** What the service offers. */
export interface Shape {
  /** Inserts a job; in the transaction that is open, if there is one. */
  readonly enqueue: (job: NewJob) => Effect.Effect<Enqueued, InvalidJob | UniqueBusy | SqlError>
  /** Inserts many in one statement, also of several workers; the answers are in order, and what is invalid is `Rejected` alone. */
  readonly enqueueMany: (jobs: ReadonlyArray<NewJob>) => Effect.Effect<ReadonlyArray<Enqueued | Rejected>, SqlError>

  readonly get: (id: JobId) => Effect.Effect<JobRecord, JobNotFound | SqlError>
  /** Newest first, active and finished; `before` goes on after the last of an earlier list. At most 100 unless `limit` says more. */
  readonly list: (
    filter?: Filter,
    options?: { readonly limit?: number | undefined; readonly before?: JobId | undefined }
  ) => Effect.Effect<ReadonlyArray<JobRecord>, SqlError>
  /**
   * Ends jobs as `cancelled`. One that is executing is interrupted, on whichever node, and ends as cancelled unless it
   * succeeds first. Answers how many ended at once, and how many were asked to.
   */
  readonly cancel: (
    filter: Filter,
    reason?: string
  ) => Effect.Effect<{ readonly cancelled: number; readonly requested: number }, SqlError>
  /**
   * Makes jobs available now: scheduled and retryable ones, and finished ones, with one attempt more if none was left.
   * Those whose unique key another job has by now are left as they are, and counted as conflicts.
   */
  readonly retry: (filter: Filter) => Effect.Effect<{ readonly retried: number; readonly conflicts: number }, SqlError>
  /** Removes jobs for good, except those that are executing. Answers how many. */
  readonly delete: (filter: Filter) => Effect.Effect<number, SqlError>

  /** Stops claiming; what runs goes on. */
  readonly pause: (queue: string, target?: Queue.Target) => Effect.Effect<void, Queue.InvalidQueue | SqlError>
  readonly resume: (queue: string, target?: Queue.Target) => Effect.Effect<void, Queue.InvalidQueue | SqlError>
  /** How many jobs run at once on each node, or on those of a name; `null` takes back what was said. */
  readonly scale: (
    queue: string,
    limit: number | null,
    target?: Queue.Target
  ) => Effect.Effect<void, Queue.InvalidQueue | SqlError>
  /** Limits over all nodes; what is left out stays as it is. */
  readonly limit: (queue: string, limits: Queue.Limits) => Effect.Effect<void, Queue.InvalidQueue | SqlError>
  readonly queues: Effect.Effect<ReadonlyArray<Queue.Status>, SqlError>

  /** The crontab at run time. */
  readonly cron: CronShape

  /** What this node does, from now on. A subscriber that is slow loses the oldest events, and nobody waits for it. */
  readonly events: Stream.Stream<JobEvent>
  readonly status: Effect.Effect<Status>
}

/** Changing the crontab at run time. */
export interface CronShape {
  readonly create: (entry: Crontab.Entry) => Effect.Effect<void, Crontab.InvalidEntry | InvalidJob | SqlError>
  /** Changes a dynamic entry; when it fired last is kept. */
  readonly change: (
    name: string,
    changes: Partial<Omit<Crontab.Entry, "name">>
  ) => Effect.Effect<void, Crontab.EntryNotFound | Crontab.InvalidEntry | InvalidJob | SqlError>
  readonly pause: (name: string) => Effect.Effect<void, Crontab.EntryNotFound | SqlError>
  readonly resume: (name: string) => Effect.Effect<void, Crontab.EntryNotFound | SqlError>
  readonly delete: (name: string) => Effect.Effect<void, Crontab.EntryNotFound | SqlError>
  /** Makes the entry's job now, beside its schedule. */
  readonly runNow: (name: string) => Effect.Effect<JobId, Crontab.EntryNotFound | SqlError>
  readonly list: Effect.Effect<ReadonlyArray<Crontab.EntryRecord>, SqlError>
}

/** How this node is doing. */
export interface Status {
  /** Undefined for a layer that runs no queues. */
  readonly node: { readonly id: string; readonly name: string } | undefined
  /** How it is told of new jobs. */
  readonly wakeUp: "listen" | "poll" | "off"
  readonly queues: Readonly<
    Record<
      string,
      { readonly running: number; readonly buffered: number; readonly limit: number; readonly paused: boolean }
    >
  >
  /** How long ago the last heartbeat succeeded. */
  readonly heartbeatAge: Duration.Duration | undefined
}

export { Jobs } from "./internal/jobsService.ts"
export { JobNotFound } from "./internal/care.ts"
export { InvalidOptions } from "./internal/options.ts"

// --------------------------------------------------------------------------------------------------------------------
// layers
// --------------------------------------------------------------------------------------------------------------------

/** What a node runs, and how. */
export interface Options<Workers extends ReadonlyArray<Layer.Any>> {
  /** The queues of this node: how many jobs of each run at once here, or more about it. */
  readonly queues: Readonly<Record<string, number | Queue.Options>>
  /** The layers of the workers whose jobs this node can run. Jobs of others are left to other nodes. */
  readonly workers: Workers
  /** Jobs by the calendar; see `Crontab`. */
  readonly cron?: ReadonlyArray<Crontab.Entry> | undefined
  /**
   * The node's name, to which `pause` and `scale` can be addressed, and which survives restarts. Several processes may
   * have the same. At most 255 characters. Defaults to the host's name.
   */
  readonly node?: string | undefined
  /**
   * How long after the death of a node its jobs run elsewhere, at the latest. Defaults to 30 seconds. A process whose event
   * loop stands still for half as long loses its jobs as well. One second or more.
   */
  readonly lease?: Duration.Input | undefined
  /** How long a job waits at most if its notification is lost; 10 ms or more. Defaults to 1 second. */
  readonly pollInterval?: Duration.Input | undefined
  /** How often a job may take its node down with it, until it is discarded. Defaults to 3. */
  readonly maxRescues?: number | undefined
  /**
   * How long running jobs may take to finish when the layer closes, until they are interrupted and handed back. Defaults
   * to 15 seconds, on Effect's clock (`JobsConfig.TimeSource`) to nothing.
   */
  readonly shutdownGrace?: Duration.Input | undefined
  /** How long finished jobs are kept. */
  readonly retention?: Retention.Retention | undefined
  /** How many connections the queue has of its own, besides one for heartbeats and one to listen. Defaults to 4. */
  readonly connections?: number | undefined
  /** Whether to create or upgrade the tables first. Defaults to `true`. */
  readonly migrate?: boolean | undefined
  /** Which events are logged; see `JobLogger`. Defaults to `"problems"`. */
  readonly log?: JobLogger.Which | undefined
}

/** Why a node does not start. */
export type StartFailure =
  | Crontab.InvalidEntry
  | InvalidJob
  | InvalidOptions
  | Migrations.InvalidSchemaName
  | Migrations.MissingRights
  | Migrations.SchemaTooNew
  | MigrationError
  | Queue.InvalidQueue
  | Retention.InvalidRetention
  | Supervisor.StartError<Supervisor.InvalidOptions>
  | SqlError

/**
 * Runs queues on this node, as a supervisor with a process for each queue, and provides the service.
 *
 * Under a `Supervisor` it is a child like any other; its `shutdown` is then without a limit, as that of every supervisor.
 *
 * ```ts
 * import { Jobs, Worker } from "@coppice/jobs"
 * import { Postgres } from "@coppice/postgres"
 * import { Child, Supervisor } from "@coppice/supervision"
 * import { Effect, Schema } from "effect"
 *
 * class Greet extends Worker.Service<Greet>()("Greet", { args: { name: Schema.String } }) {
 *   static readonly layer = this.toLayer(Effect.succeed(({ args }) => Effect.log(`Hello, ${args.name}`)))
 * }
 *
 * export const App = Supervisor.layer("App", {
 *   strategy: "one_for_one",
 *   children: [
 *     Child.layer("database", Postgres.layer),
 *     Child.layer("jobs", Jobs.layer({ queues: { default: 10 }, workers: [Greet.layer] }))
 *   ]
 * })
 * ```
 */
export const layer = <const Workers extends ReadonlyArray<Layer.Any>>(
  options: Options<Workers>
): Layer.Layer<
  Jobs,
  StartFailure | Failure<Workers[number]>,
  PgClient.PgClient | SqlClient.SqlClient | Exclude<Needed<Workers[number]>, Provided<Workers[number]>>
> => {
  // The layers of workers are heterogeneous; their types are folded above.
  const workers = options.workers as unknown as ReadonlyArray<Layer.Layer<never, Failure<Workers[number]>>>
  const runtime = Layer.unwrap(Start.node(options))
  const [first, ...rest] = workers
  return (first === undefined ? runtime : Layer.provide(runtime, Layer.mergeAll(first, ...rest))) as never
}

/**
 * Provides the service without running anything: for processes that only enqueue, and for services that enqueue while the
 * workers need those services.
 *
 * ```ts
 * import { Jobs } from "@coppice/jobs"
 * import { Postgres } from "@coppice/postgres"
 * import { Layer } from "effect"
 *
 * export const Enqueueing = Jobs.layerClient.pipe(Layer.provide(Postgres.layer))
 * ```
 */
export const layerClient: Layer.Layer<Jobs, Migrations.InvalidSchemaName, SqlClient.SqlClient> = Layer.effect(
  Jobs,
  Start.client
)
