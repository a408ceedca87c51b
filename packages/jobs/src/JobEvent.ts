/**
 * What happened to jobs, told after the database has committed it.
 *
 * A node tells what it did itself: enqueued, ran, staged, rescued, pruned. Nothing is told of what rolled back, and an
 * event that tells of an end is told by whoever wrote that end, once.
 */
import type { Duration } from "effect"
import type { CronTick, JobId } from "./Job.ts"

/** Which job an event is about. */
export interface Subject {
  readonly id: JobId
  readonly worker: string
  readonly queue: string
}

/** The same for an attempt. */
export interface Attempt extends Subject {
  readonly attempt: number
  readonly lease: number
}

/** An attempt that ended. */
export interface Ended extends Attempt {
  /** How long the handler ran. */
  readonly duration: Duration.Duration
  /** How long the job had waited since it was due. */
  readonly waited: Duration.Duration
}

/** Why an attempt did not succeed. */
export interface Failed extends Ended {
  readonly kind: string
  readonly message: string
}

export type JobEvent =
  /** It is in the database. */
  | ({ readonly _tag: "Enqueued"; readonly conflict: boolean } & Subject)
  /** Its handler begins. */
  | ({ readonly _tag: "Started" } & Attempt)
  | ({ readonly _tag: "Completed" } & Ended)
  /** It failed, and is tried again. */
  | ({ readonly _tag: "Retryable"; readonly retryIn: Duration.Duration } & Failed)
  | ({ readonly _tag: "Snoozed"; readonly snoozedFor: Duration.Duration } & Ended)
  /** It ended as cancelled, by its handler or because somebody asked. */
  | ({ readonly _tag: "Cancelled"; readonly reason: string } & Subject)
  /** It failed for the last time, or discarded itself. */
  | ({ readonly _tag: "Discarded" } & Failed)
  /** Not started, or interrupted by a shutdown: available again, with the attempt restored. */
  | ({ readonly _tag: "HandedBack" } & Attempt)
  /** Nobody with the code for it here: available again for other nodes, with the attempt restored. */
  | ({ readonly _tag: "Unclaimable"; readonly reason: "unknown worker" | "newer args" } & Attempt)
  /** Somebody else has the job now; nothing of what this node did with it was written. */
  | ({ readonly _tag: "LeaseLost" } & Attempt)
  /** Taken from a node that was lost; `to` is what became of it. */
  | ({
      readonly _tag: "Rescued"
      readonly node: string
      readonly to: "available" | "retryable" | "discarded" | "cancelled"
    } & Attempt)
  /** It runs longer than its worker finds normal. */
  | ({ readonly _tag: "Slow"; readonly runningFor: Duration.Duration } & Attempt)
  /** It was interrupted, and does not end. Its lease is kept, so that nobody runs it twice. */
  | ({ readonly _tag: "Stuck"; readonly interruptedFor: Duration.Duration } & Attempt)
  /** Somebody retried it by hand. */
  | ({ readonly _tag: "Retried" } & Subject)
  | ({ readonly _tag: "Deleted" } & Subject)
  /** The crontab made it. */
  | ({ readonly _tag: "CronFired"; readonly tick: CronTick } & Subject)
  /** Scheduled and retryable jobs became available. */
  | { readonly _tag: "Staged"; readonly count: number }
  /** Finished jobs were removed from the history. */
  | { readonly _tag: "Pruned"; readonly count: number }
  | {
      readonly _tag: "QueueChanged"
      readonly queue: string
      readonly change: "paused" | "resumed" | "scaled" | "limited"
    }
  /** How this node is told of new jobs: `listen` at once, `poll` at the next poll. */
  | { readonly _tag: "WakeUpMode"; readonly mode: "listen" | "poll" }
