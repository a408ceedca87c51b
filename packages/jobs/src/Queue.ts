/**
 * A queue: how many of its jobs run at once, here and everywhere, and how fast.
 *
 * What code says (`Jobs.layer({ queues })`) holds until somebody says otherwise at run time. What is said at run time is
 * kept in the database: it reaches every node, survives restarts, and wins for each setting of which it speaks. Limits in
 * code are those of the release whose node started last.
 *
 * ```ts
 * import { Jobs } from "@coppice/jobs"
 * import { Effect } from "effect"
 *
 * const slowDown = Effect.gen(function*() {
 *   const jobs = yield* Jobs.Jobs
 *   yield* jobs.scale("mail", 5, { node: "web-1" })
 *   yield* jobs.limit("mail", { rate: { limit: 100, period: "1 minute" }, perPartition: 2 })
 *   yield* jobs.pause("imports")
 * })
 * ```
 */
import { type Duration, Schema } from "effect"

/**
 * How many jobs start, on average: a token bucket that holds `limit` at most, and gets as many per `period`. After a pause
 * `limit` start at once, so that up to twice as many may start within one period. Every attempt is a start, also one that
 * is handed back.
 */
export interface Rate {
  /** From 1. */
  readonly limit: number
  /** From 1 millisecond, to the millisecond. */
  readonly period: Duration.Input
}

/**
 * Limits over all nodes, which hold exactly: whoever claims, dies, or is rescued meanwhile. Each may be left out; `null` at
 * run time removes it, whatever the code says.
 *
 * With limits per partition, partitions have their turns, and priorities hold within each of them only. Jobs without a
 * partition are one together. A limit that is lowered interrupts nothing. A transaction that changes settings of a queue
 * holds up its claims until it ends.
 */
export interface Limits {
  /** How many jobs run at once, over all nodes. */
  readonly global?: number | null | undefined
  /** How many start per period, over all nodes. */
  readonly rate?: Rate | null | undefined
  /** How many jobs of one partition run at once, over all nodes. */
  readonly perPartition?: number | null | undefined
  /** How many of one partition start per period, over all nodes. */
  readonly ratePerPartition?: Rate | null | undefined
}

/** How a queue is run by a node. */
export interface Options extends Limits {
  /** How many jobs run at once on this node. */
  readonly limit: number
  /** Starts paused, unless it was resumed at run time. */
  readonly paused?: boolean | undefined
}

/**
 * On which nodes a change works: those of a name, or all when it is left out. The last word holds: after `pause(queue)`,
 * `resume(queue, { node })` lets these nodes go on, and `resume(queue)` all, those that were paused by name as well.
 */
export interface Target {
  readonly node?: string | undefined
}

/** A queue as the database knows it: what was said at run time, and its jobs. */
export interface Status {
  readonly name: string
  /** Paused on every node of which nothing else was said. */
  readonly paused: boolean
  /** Names of nodes on which it is paused. */
  readonly pausedOn: ReadonlyArray<string>
  /** What `scale` said: for every node, and for nodes by name. */
  readonly limit: number | undefined
  readonly limitOn: Readonly<Record<string, number>>
  /** Those that hold, whoever said so. */
  readonly limits: Limits
  /** Counted up to 10,000, which stands for any number from there on. */
  readonly available: number
  readonly executing: number
  /** Of scheduled and retryable jobs, the 50,000 of all queues that are due next are counted. */
  readonly scheduled: number
  readonly retryable: number
  /** How long the oldest available job has waited. */
  readonly oldestAvailable: Duration.Duration | undefined
}

/** A setting of a queue that makes no sense. Nothing was changed. */
export class InvalidQueue extends Schema.TaggedError<InvalidQueue>("@coppice/jobs/InvalidQueue")("InvalidQueue", {
  queue: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `Queue ${JSON.stringify(this.queue)}: ${this.problem}`
  }
}
