/** What the jobs suite asks of whoever wants to be measured: a queue of jobs that carry a number and do nothing. */
import type { Effect, Scope } from "effect"

/** Where the queue keeps its jobs: a database of its own, or the Redis server of the run. */
export interface Place {
  readonly database: string
  readonly redis: string
}

export interface Implementation<Queue = JobQueue> {
  readonly name: string
  /** How it is configured, for the reader of the table. */
  readonly configuration: string
  /** Installs the queue in its place unless it is there, and opens it for enqueueing; connections end with the scope. */
  readonly open: (place: Place) => Effect.Effect<Queue, never, Scope.Scope>
}

/** As much of a queue as tells how long a job waits for its start. */
export interface SignalQueue {
  /** Enqueues one job, durably when the effect ends. */
  readonly enqueue: (job: number) => Effect.Effect<unknown>
  /** Runs jobs in this process until the scope ends; `started` is the handler, and hears each job's number. */
  readonly work: (started: (job: number) => void) => Effect.Effect<unknown, never, Scope.Scope>
}

/** As much of a queue as tells what enqueueing costs. */
export interface BulkQueue {
  /** Enqueues jobs as the implementation does it in bulk, durably when the effect ends. */
  readonly enqueueMany: (jobs: ReadonlyArray<number>) => Effect.Effect<unknown>
}

export interface JobQueue extends SignalQueue, BulkQueue {
  /** Whether a job that is due waits or runs. */
  readonly busy: Effect.Effect<boolean>
}

/** A queue that can be filled as if it had run for long. */
export interface AgedQueue extends JobQueue {
  readonly age: (rows: { readonly finished: number; readonly scheduled: number }) => Effect.Effect<unknown>
}
