/**
 * Hearing a channel, and proving it: whatever a node says comes back to it.
 *
 * A client of Redis may subscribe anew after a lost connection without telling, be connected to a server that is gone, or
 * end. So every sign of life must come back in time; where one does not, the subscription is made anew. What was missed
 * is found by the numbers of packets, however that came about.
 */
import { type Clock, Effect, Latch, Queue, Random, Schema, type Scope } from "effect"
import type { Redis } from "effect/persistence"
import { backoff } from "../backoff.ts"
import type { Cluster } from "../cluster.ts"
import type { Metrics } from "../metrics.ts"
import { monotonic } from "./monotonic.ts"
import { interruptedWithin } from "./promptly.ts"
import type { Publisher } from "./publisher.ts"

export interface Options {
  readonly channel: string
  readonly clock: Clock.Clock
  readonly cluster: Cluster
  readonly heartbeatMillis: number
  readonly metrics: Metrics
  readonly publisher: Publisher
  /** Messages of other nodes that came since it was asked. */
  readonly received: () => number
  readonly redis: Redis.Redis["Service"]
  readonly onConnected: Effect.Effect<unknown>
  readonly onDisconnected: (error: Redis.RedisError | Deaf) => Effect.Effect<unknown>
}

/** A node did not hear itself. */
export class Deaf extends Schema.TaggedError<Deaf>("@coppice/pubsub/Deaf")("Deaf", {
  millis: Schema.Finite,
  /** Why it could not say anything, if that is known. */
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `What this node published did not come back within ${this.millis} ms`
  }
}

/** How long what was said may take to come back; at most half a heartbeat. */
const longestEchoMillis = 5_000

/** After so many characters subscribers have their turn: much may arrive at once, and is more than waits for one. */
const turnLength = 8 * 1_024

/** Answers to a hello are spread over this time, so that several hellos are answered at once. */
const answerMillis = 100

/** How long it may take to subscribe and be heard: a server that is frozen accepts connections, and says nothing. */
const openMillis = 15_000

/** How long closing a connection is waited for: it takes no time, unless it is still being opened. */
const longestEnd = "100 millis"

export class Listener {
  private readonly options: Options
  /** Open while something of this node came back since it was asked for. */
  private readonly echo = Latch.makeUnsafe(false)
  /** Open when there were messages since the last sign. */
  private readonly busy = Latch.makeUnsafe(false)
  /** Open while a hello has no answer. */
  private readonly asked = Latch.makeUnsafe(false)

  constructor(options: Options) {
    this.options = options
  }

  /** Messages leave, or were given up: a sign follows soon, by which the others see whether they missed them. */
  onBusy(): void {
    this.busy.openUnsafe()
  }

  readonly run: Effect.Effect<never> = Effect.gen({ self: this }, function* () {
    const pauses = backoff()
    while (true) {
      let heard = false
      const onHeard = Effect.sync(() => {
        heard = true
      })
      const tooLong = Effect.andThen(
        Effect.sleep(openMillis),
        Effect.suspend(() => (heard ? Effect.never : Effect.fail(this.deaf(openMillis))))
      )
      const listen = interruptedWithin(longestEnd, Effect.scoped(this.listen(onHeard)))
      const error = yield* Effect.flip(Effect.raceFirst(listen, tooLong))
      this.options.cluster.disconnected()
      this.options.metrics.reconnect("listener")
      yield* this.options.onDisconnected(error)
      if (heard) {
        pauses.reset()
        yield* Effect.logInfo("The connection to Redis that hears other nodes was lost, and is made anew", error)
      }
      yield* pauses.pause
    }
  })

  private listen(onHeard: Effect.Effect<void>): Effect.Effect<never, Redis.RedisError | Deaf, Scope.Scope> {
    return Effect.gen({ self: this }, function* () {
      const { channel, redis } = this.options
      const messages = yield* redis.subscribe(channel)
      return yield* Effect.raceFirst(this.hear(messages), this.beat(onHeard))
    })
  }

  private hear(messages: Queue.Dequeue<Redis.RedisMessage, Redis.RedisError>): Effect.Effect<never, Redis.RedisError> {
    return Effect.gen({ self: this }, function* () {
      let length = 0
      while (true) {
        for (const { message } of yield* Queue.takeAll(messages)) {
          this.receive(message)
          length += message.length
          if (length < turnLength) continue
          length = 0
          yield* Effect.yieldNow
        }
      }
    })
  }

  private receive(text: string): void {
    const { clock, cluster, metrics, received } = this.options
    const heard = cluster.receive(text, monotonic(clock))
    if (heard === "own") this.echo.openUnsafe()
    else if (heard === "hello") this.asked.openUnsafe()
    else if (heard === "nothing") metrics.malformed()
    const messages = received()
    if (messages > 0) metrics.received(messages)
  }

  private beat(onHeard: Effect.Effect<void>): Effect.Effect<never, Deaf> {
    return Effect.gen({ self: this }, function* () {
      const { clock, cluster, onConnected } = this.options
      yield* this.say("hello")
      yield* onHeard
      cluster.connected(monotonic(clock))
      yield* onConnected
      while (true) {
        yield* this.untilNext()
        yield* this.say("alive")
        cluster.tick(monotonic(clock))
      }
    })
  }

  /** Says something, and fails if it does not come back. */
  private say(sign: "hello" | "alive"): Effect.Effect<void, Deaf> {
    return Effect.suspend(() => {
      const millis = Math.min(longestEchoMillis, this.options.heartbeatMillis / 2)
      this.echo.closeUnsafe()
      this.options.publisher.say(sign)
      // In two parts: a process that was frozen meanwhile reads what has come before it decides.
      const silence = Effect.andThen(Effect.sleep(millis / 2), Effect.sleep(millis / 2))
      return Effect.raceFirst(
        this.echo.await,
        Effect.flatMap(silence, () => Effect.fail(this.deaf(millis)))
      )
    })
  }

  private deaf(millis: number): Deaf {
    const { failure } = this.options.publisher
    return new Deaf(failure === undefined ? { millis } : { millis, cause: failure })
  }

  private untilNext(): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      const { cluster } = this.options
      this.busy.closeUnsafe()
      const pause = Effect.suspend(() => Effect.sleep(cluster.pause()))
      const quiet = Effect.raceFirst(pause, Effect.andThen(this.busy.await, pause))
      const answer = Effect.andThen(this.asked.await, Effect.sleep(answerMillis * (yield* Random.next)))
      yield* Effect.raceFirst(quiet, answer)
      this.asked.closeUnsafe()
    })
  }
}
