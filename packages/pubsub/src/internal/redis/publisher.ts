/**
 * Sending to a channel: some PUBLISH at once, and what is broadcast while they are on their way leaves with the next.
 *
 * A PUBLISH that failed is tried again as it was, because the others drop what they have heard before. What the server does
 * not take for a while is given up, and so is what waits behind it; the others find the hole.
 */
import { type Clock, Effect, Latch, Option } from "effect"
import type { Redis } from "effect/persistence"
import { Buffer } from "node:buffer"
import type { Message } from "../../Adapter.ts"
import { backoff } from "../backoff.ts"
import type { Cluster } from "../cluster.ts"
import { encodeEntry, type Sign } from "../envelope.ts"
import type { Metrics } from "../metrics.ts"
import { monotonic } from "./monotonic.ts"
import { Outbox } from "./outbox.ts"
import { interruptedWithin } from "./promptly.ts"

export interface Options {
  readonly cluster: Cluster
  readonly clock: Clock.Clock
  readonly metrics: Metrics
  readonly publish: (packets: ReadonlyArray<string>) => Effect.Effect<void, Redis.RedisError>
  /** Messages leave, or were given up: a sign should follow soon. */
  readonly onBusy: () => void
}

/** What waits at most. */
const outboxBytes = 16 * 1_024 * 1_024

/** What one PUBLISH takes, unless a single message is larger: some hundreds of messages, which others deliver in one turn. */
const packetBytes = 16 * 1_024

/** How many of them are on their way at once. */
const packetsAtOnce = 16

/** A server ends the connection of a subscriber for whom 32 MB wait, or 8 MB for a minute, unless it is configured otherwise. */
const largestMessageBytes = 8 * 1_024 * 1_024

/** How long a packet is tried. */
const patienceMillis = 10_000

const firstPauseMillis = 50
const longestPauseMillis = 1_000

/** One warning of messages that were given up in this time. */
const quietMillis = 60_000

interface Waiter {
  readonly until: number
  readonly resume: () => void
}

export class Publisher {
  private readonly options: Options
  private readonly outbox = new Outbox(outboxBytes)
  private readonly work = Latch.makeUnsafe(false)
  private sign: Sign | undefined
  private ended = false
  /** How many messages came, and how many of them are on their way. */
  private came = 0
  private onTheirWay = 0
  private waiters: Array<Waiter> = []
  /** How many were given up, and no warning has told of them. */
  private untold = 0
  /** Why what is to leave does not, if Redis has said it. */
  failure: Redis.RedisError | undefined
  private warnedAt = Number.NEGATIVE_INFINITY

  constructor(options: Options) {
    this.options = options
  }

  send(message: Message, to: string | undefined): void {
    if (this.ended) return
    this.came++
    const entry = encodeEntry(message, to)
    const bytes = entry === undefined ? 0 : Buffer.byteLength(entry)
    if (entry === undefined || bytes > largestMessageBytes) this.outbox.refuse()
    else this.outbox.add(entry, bytes)
    this.work.openUnsafe()
  }

  /** Says something as soon as what is on its way has left. */
  say(sign: Sign): void {
    if (this.sign !== "hello") this.sign = sign
    this.work.openUnsafe()
  }

  /** Takes nothing any more. */
  end(): void {
    this.ended = true
  }

  /** Gives up what is left: nobody sends it any more. */
  readonly abandon: Effect.Effect<void> = Effect.suspend(() => {
    this.ended = true
    this.outbox.clear()
    const lost = this.onTheirWay + this.outbox.takeLost()
    this.onTheirWay = 0
    this.awaken()
    // There is no later.
    this.warnedAt = Number.NEGATIVE_INFINITY
    return lost === 0 ? Effect.void : this.warn(lost)
  })

  readonly flush: Effect.Effect<void> = Effect.callback((resume) => {
    const waiter = { until: this.came, resume: () => resume(Effect.void) }
    this.waiters.push(waiter)
    this.awaken()
    return Effect.sync(() => {
      this.waiters = this.waiters.filter((other) => other !== waiter)
    })
  })

  readonly run: Effect.Effect<never> = Effect.forever(
    Effect.suspend(() => this.step()),
    { disableYield: true }
  )

  private step(): Effect.Effect<void> {
    const { cluster, onBusy } = this.options
    if (this.sign !== undefined) {
      const packet = cluster.sign(this.sign)
      this.sign = undefined
      return this.deliver([packet])
    }
    const lost = this.outbox.takeLost()
    if (lost > 0) {
      cluster.skip()
      onBusy()
      this.awaken()
      return this.warn(lost)
    }
    const packets: Array<string> = []
    while (packets.length < packetsAtOnce && this.outbox.size > 0) {
      const entries = this.outbox.take(packetBytes)
      this.onTheirWay += entries.length
      packets.push(cluster.packet(entries))
    }
    if (packets.length > 0) {
      onBusy()
      return this.deliver(packets)
    }
    this.work.closeUnsafe()
    // Then in a turn of its own: whoever broadcasts does not run this, and what is broadcast in one go leaves together.
    return Effect.andThen(this.work.await, Effect.yieldNow)
  }

  /** Ends when the packets have left, or are given up, and then with everything that waits. */
  private deliver(packets: ReadonlyArray<string>): Effect.Effect<void> {
    return Effect.flatMap(
      // A connection that is being opened does not let go before it fails.
      Effect.timeoutOption(interruptedWithin(0, this.attempt(packets)), patienceMillis),
      (left) => {
        const messages = this.onTheirWay
        if (Option.isNone(left)) this.outbox.clear()
        this.onTheirWay = 0
        this.awaken()
        if (messages === 0) return Effect.void
        if (Option.isNone(left)) return this.warn(messages)
        this.options.metrics.sent(messages)
        return Effect.void
      }
    )
  }

  /** Tries until they have left. */
  private attempt(packets: ReadonlyArray<string>): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      const pauses = backoff(firstPauseMillis, longestPauseMillis)
      while (true) {
        const result = yield* Effect.result(this.options.publish(packets))
        if (result._tag === "Success") {
          this.failure = undefined
          return
        }
        this.failure = result.failure
        this.options.metrics.reconnect("sender")
        yield* pauses.pause
      }
    })
  }

  private awaken(): void {
    const settled = this.came - this.onTheirWay - this.outbox.size
    const ready = this.waiters.filter(({ until }) => until <= settled)
    if (ready.length === 0) return
    this.waiters = this.waiters.filter(({ until }) => until > settled)
    for (const { resume } of ready) resume()
  }

  private warn(lost: number): Effect.Effect<void> {
    const now = monotonic(this.options.clock)
    this.options.metrics.unsent(lost)
    this.untold += lost
    if (now < this.warnedAt + quietMillis) return Effect.void
    this.warnedAt = now
    const text =
      `${this.untold} events were not sent to other nodes: Redis did not take them in time, they were larger than 8 MB, or`
      + " not JSON"
    const { failure } = this
    this.untold = 0
    return failure === undefined ? Effect.logWarning(text) : Effect.logWarning(text, failure)
  }
}
