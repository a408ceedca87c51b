/**
 * A queue: how many of its jobs run at once, here and everywhere, and how fast.
 *
 * What code says (`Jobs.layer({ queues })`) holds until somebody says otherwise at run time. What is said at run time is
 * kept in the database: it reaches every node, and survives restarts.
 */
import { type Duration, Schema } from "effect"

/** At most `limit` starts per `period`: a token bucket that holds `limit` at most. */
export interface Rate {
  readonly limit: number
  readonly period: Duration.Input
}

/** Limits over all nodes. Each may be left out; `null` at run time removes it. */
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

/** On which nodes a change works: those of a name, or all when it is left out. */
export interface Target {
  readonly node?: string | undefined
}

/** A queue as the database and the nodes know it. */
export interface Status {
  readonly name: string
  /** Paused everywhere. */
  readonly paused: boolean
  /** Names of nodes on which it is paused. */
  readonly pausedOn: ReadonlyArray<string>
  /** What `scale` said: for every node, and for nodes by name. */
  readonly limit: number | undefined
  readonly limitOn: Readonly<Record<string, number>>
  readonly limits: Limits
  readonly available: number
  readonly executing: number
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
