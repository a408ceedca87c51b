/**
 * The queue: its service, and the layers that run it.
 */
import type { Duration, Effect, Schema, Stream } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import type * as Crontab from "./Crontab.ts"
import type { JobEvent } from "./JobEvent.ts"
import type { JobId, JobRecord, State } from "./Job.ts"
import type { JobNotFound } from "./internal/care.ts"
import type { Enqueued, InvalidJob, NewJob, Rejected, UniqueBusy } from "./NewJob.ts"
import type * as Queue from "./Queue.ts"

/** Which jobs; what is left out does not matter, and within a list one must match. */
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
  /** How many jobs run at once on each node, or on those of a name; `null` for what their code says. */
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
