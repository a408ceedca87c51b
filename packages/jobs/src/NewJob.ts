/**
 * A job that is not in the database yet: its options, what makes it unique, and what becomes of it.
 *
 * `Worker.job(args, options)` makes one; `Jobs.enqueue` and `Jobs.enqueueMany` take it.
 */
import { type DateTime, type Duration, Schema } from "effect"
import type { JobId, State } from "./Job.ts"

/** What can be said of one job, over what its worker says. `Key` are fields of its args, for `unique.keys`. */
export interface Options<Key extends string = never> {
  /** The instant from which on it may run; one that has passed is now. Not together with `scheduleIn`. */
  readonly scheduleAt?: DateTime.DateTime.Input | undefined
  /** How long from now, by the clock that `JobsConfig.TimeSource` names, until it may run. */
  readonly scheduleIn?: Duration.Input | undefined
  /** At most 127 characters. */
  readonly queue?: string | undefined
  /** 0 (first) to 9 (last). */
  readonly priority?: number | undefined
  /** 1 or more. */
  readonly maxAttempts?: number | undefined
  /** Added to the worker's; at most 100 of 255 characters. */
  readonly tags?: ReadonlyArray<string> | undefined
  /** Added to the worker's; at most 256 KiB of JSON. */
  readonly meta?: Readonly<Record<string, Schema.Json>> | undefined
  /** Instead of the worker's; `false` for a job that is not unique although its worker's are. */
  readonly unique?: Unique<Key> | false | undefined
  /** Instead of the worker's; at most 255 characters. */
  readonly partition?: string | undefined
}

/** States in which a job keeps others like it out. */
export type UniqueStates = "incomplete" | "scheduled" | "successful" | "all" | ReadonlyArray<State>

/**
 * What makes a job unique: no second job with the same fields is inserted while the first is in one of the states, and,
 * with a `period`, no longer than that after it was inserted.
 *
 * The window slides: it begins with each job that was inserted. The options of the job that is there count, not those of
 * one that comes. Oban's words, but enforced by an index: at any isolation level, in bulk, and from any number of nodes at
 * once. In a transaction that sees only what was there when it began (`repeatable read`, `serializable`), losing a race
 * fails with a `SqlError` of 40001, as every other conflict there: the transaction is to be tried again.
 *
 * A job gives its key back when it first leaves the states, and does not take it again when it comes back to one by itself.
 */
export interface Unique<Key extends string> {
  /** Longer than nothing. Defaults to no end. */
  readonly period?: Duration.Input | undefined
  /** Which parts of the job must be the same. Defaults to worker, queue and args. */
  readonly fields?: ReadonlyArray<"worker" | "queue" | "args" | "meta"> | undefined
  /** Which fields of the args must be the same; one that is absent differs from one that is null. Defaults to all. */
  readonly keys?: ReadonlyArray<Key> | undefined
  /**
   * `incomplete`: not finished. `scheduled`: waiting for its time to come. `successful`: all but cancelled and discarded.
   * `all`: also those. A list begins with `"scheduled"`, and leaves no state out on the way to one that it names. Defaults
   * to `successful` with a `period`, and to `incomplete` without.
   *
   * Without a period, `successful` and `all` keep others out for as long as the finished job is in the history.
   */
  readonly states?: UniqueStates | undefined
  /**
   * What a job that conflicts changes of the existing one, by the state in which that is. Defaults to nothing.
   *
   * The key stays as it is, with its time. A new `scheduledAt` makes the job scheduled or available; a new queue or
   * priority puts an available one at the end of those; `maxAttempts` leaves one attempt at least; `args` come with their
   * version and partition, and only to a job of the same worker.
   */
  readonly replace?: Partial<Record<"scheduled" | "available" | "retryable", ReadonlyArray<Replaceable>>> | undefined
  /**
   * What to do while another transaction, not yet committed, has inserted the same: `wait` until it ends (the default),
   * `skip` and answer `Busy`, or fail with `UniqueBusy` (`error`).
   *
   * The last two wait 10 milliseconds to be sure, in a savepoint, and leave `lock_timeout` as it was. If the other
   * transaction rolls back, a job that was skipped does not exist.
   */
  readonly onBusy?: "wait" | "skip" | "error" | undefined
}

/** What `replace` can change. */
export type Replaceable = "args" | "maxAttempts" | "meta" | "priority" | "queue" | "scheduledAt" | "tags"

/** A job with encoded args and all that its worker says of it. Made by `job` of a worker. */
export interface NewJob {
  readonly "~coppice/jobs/NewJob": true
  readonly worker: string
  readonly argsVersion: number
  /** The args as JSON, or what is wrong with them. */
  readonly args:
    | { readonly _tag: "Valid"; readonly value: Schema.Json }
    | { readonly _tag: "Invalid"; readonly error: InvalidJob }
  readonly queue: string
  readonly priority: number
  readonly maxAttempts: number
  readonly tags: ReadonlyArray<string>
  readonly meta: Readonly<Record<string, Schema.Json>>
  readonly partition: string | undefined
  readonly unique: Unique<string> | undefined
  readonly scheduleAt: DateTime.DateTime.Input | undefined
  readonly scheduleIn: Duration.Input | undefined
}

// --------------------------------------------------------------------------------------------------------------------
// results
// --------------------------------------------------------------------------------------------------------------------

/** The job is in the database, or will be when the transaction commits. */
export interface Inserted {
  readonly _tag: "Inserted"
  readonly id: JobId
}

/** Another job keeps this one out; `replaced` tells whether it was changed to what this one wanted. */
export interface Conflict {
  readonly _tag: "Conflict"
  readonly id: JobId
  readonly replaced: boolean
}

/** Another transaction is just inserting the same, and `onBusy` is `skip`. If it rolls back, no such job exists. */
export interface Busy {
  readonly _tag: "Busy"
}

/** This job of a batch was refused; the others were not harmed. */
export interface Rejected {
  readonly _tag: "Rejected"
  readonly error: InvalidJob | UniqueBusy
}

export type Enqueued = Inserted | Conflict | Busy

// --------------------------------------------------------------------------------------------------------------------
// errors
// --------------------------------------------------------------------------------------------------------------------

/** A job that cannot be stored or run as it is. Nothing was written of it. */
export class InvalidJob extends Schema.TaggedError<InvalidJob>("@coppice/jobs/InvalidJob")("InvalidJob", {
  worker: Schema.String,
  /** Where: `args.title`, `options.priority`, `meta["a b"]`. */
  path: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `A job for ${this.worker} cannot be enqueued: ${this.path} ${this.problem}`
  }
}

/** Another transaction is just inserting a job with the same unique key; try again when it has ended. */
export class UniqueBusy extends Schema.TaggedError<UniqueBusy>("@coppice/jobs/UniqueBusy")("UniqueBusy", {
  worker: Schema.String
}) {
  override get message(): string {
    return `Another transaction is just inserting the same unique job for ${this.worker}: try again when it has ended, or let it wait (onBusy: "wait")`
  }
}
