/** One queue of a node: what it may run, what it has claimed, and how much to claim next. */
import { Latch } from "effect"
import type * as Queue from "../Queue.ts"
import { type After, Marks } from "./claim.ts"
import type { Held } from "./engine.ts"

export class QueueState {
  readonly name: string
  readonly options: Queue.Options
  readonly marks = new Marks()
  readonly buffer: Array<Held> = []
  readonly wake = Latch.makeUnsafe(true)
  /** Open while the buffer has jobs that could start. */
  readonly ready = Latch.makeUnsafe(false)
  running = 0
  /** Whether the database may have more than the last claim found. */
  more = true
  /** Whether something was told since the last claim, so that there may be jobs before its end. */
  told = true
  /** Whether it has jobs that this node must leave to others: they would be found at its head for ever. */
  excludes = false
  paused: boolean
  limit: number
  limited: boolean
  /** Jobs that ended per millisecond, and how long a claim takes: how much to claim ahead. */
  pace = 0
  claimMillis = 1
  ended = 0
  /** Claims nothing ahead, so that priorities hold to the last: on virtual time, where it would not be quicker. */
  exact = false
  /** When the claim that is under way began, by the monotonic clock. */
  claimingSince = Number.POSITIVE_INFINITY
  private claimedAt = 0
  private endedThen = 0
  pumping = false

  constructor(name: string, options: Queue.Options) {
    this.name = name
    this.options = options
    this.paused = options.paused ?? false
    this.limit = options.limit
    this.limited = isLimited(options)
  }

  /** Where the next claim begins. */
  begin(): After {
    const { told } = this
    this.told = false
    return this.marks.after(told)
  }

  /** Has the producer look at once. */
  look(): void {
    this.more = true
    this.told = true
    this.wake.openUnsafe()
  }

  /**
   * How many jobs to claim beyond the free slots, so that they do not run dry while the next claim is under way. What is
   * claimed ahead starts within a few claims' time; for slow jobs it is nothing, and priorities hold.
   */
  get ahead(): number {
    if (this.limited || this.exact || this.limit === 0) return 0
    return Math.min(aheadMax, Math.floor(this.pace * this.claimMillis * 3))
  }

  /** Follows the pace from claim to claim. */
  measure(began: number, now: number): void {
    const cycle = Math.max(0.5, began - this.claimedAt)
    this.pace = this.pace * 0.5 + ((this.ended - this.endedThen) / cycle) * 0.5
    this.claimMillis = this.claimMillis * 0.5 + Math.max(0.5, now - began) * 0.5
    this.claimedAt = began
    this.endedThen = this.ended
  }
}

const isLimited = (limits: Queue.Limits): boolean =>
  [limits.global, limits.rate, limits.perPartition, limits.ratePerPartition].some((limit) => limit != null)

/** The most that a queue claims ahead. */
const aheadMax = 1_000
