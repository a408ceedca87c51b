/** The adapter, by the clock that is there. */
import { Clock, Deferred, Effect, Fiber, type Scope } from "effect"
import * as Redis from "effect/persistence/Redis"
import type { Adapter, Receiver } from "../../Adapter.ts"
import { Cluster } from "../cluster.ts"
import { counting, metrics } from "../metrics.ts"
import { type Deaf, Listener } from "./listener.ts"
import { within } from "./promptly.ts"
import { Publisher } from "./publisher.ts"
import { Sender } from "./sender.ts"

export interface Options {
  readonly channel: string
  readonly heartbeatMillis: number
  readonly node: string
  readonly receiver: Receiver
}

/** Who does not hear a goodbye notices the silence. */
const longestGoodbye = "1 second"

/** How long closing a connection is waited for. */
const longestEnd = "100 millis"

/** Has started when the node hears itself. */
export const start = ({
  channel,
  heartbeatMillis,
  node,
  receiver
}: Options): Effect.Effect<Adapter, Redis.RedisError | Deaf, Redis.Redis | Scope.Scope> =>
  Effect.gen(function* () {
    const redis = yield* Redis.Redis
    const clock = yield* Clock.Clock
    const measured = yield* metrics
    const counted = counting(receiver, measured)
    const cluster = new Cluster(node, counted.receiver, { heartbeatMillis })
    const sender = new Sender(redis, channel)
    yield* Effect.addFinalizer(() => within(longestEnd, sender.close))
    const publish = (packets: ReadonlyArray<string>) => sender.publish(packets)
    const publisher = new Publisher({ cluster, clock, metrics: measured, publish, onBusy: () => listener.onBusy() })
    const started = yield* Deferred.make<void, Redis.RedisError | Deaf>()
    const listener: Listener = new Listener({
      channel,
      clock,
      cluster,
      heartbeatMillis,
      metrics: measured,
      publisher,
      received: counted.take,
      redis,
      onConnected: Deferred.succeed(started, undefined),
      onDisconnected: (error) => Deferred.fail(started, error)
    })
    const publishing = yield* Effect.forkScoped(publisher.run)
    yield* Effect.forkScoped(listener.run)
    yield* Deferred.await(started)
    const goodbye = Effect.gen(function* () {
      publisher.end()
      yield* publisher.flush
      yield* Fiber.interrupt(publishing)
      yield* publish([cluster.sign("bye")])
    })
    yield* Effect.addFinalizer(() => Effect.andThen(within(longestGoodbye, goodbye), publisher.abandon))
    return { send: (message, to) => publisher.send(message, to), flush: publisher.flush }
  })
