/**
 * Broadcasting over Redis, for those whom one PostgreSQL does not carry: its PUBLISH and SUBSCRIBE, through the `Redis`
 * service of `effect/persistence`.
 *
 * All nodes use one channel, whatever the number of topics, and each has one connection that publishes (reserved from the
 * pool of the service, because the shared one would keep a process from ending while Redis is away) and one that listens.
 * What is broadcast while a PUBLISH is on its way leaves with the next one. Events are delivered at most once and, of one
 * node, in order. Redis keeps nothing for whom it cannot reach, so every packet has a number. A node that has missed one
 * tells its subscribers a `Gap`: before what comes after it, or by the sender's next sign, which follows one to two seconds
 * after its last event, and at the latest at every heartbeat.
 *
 * - A node that Redis cuts off, for instance because it was too slow to read (`client-output-buffer-limit pubsub`),
 *   connects again, and so what it missed is a `Gap`.
 * - What Redis has not taken for 10 seconds is given up with all that waits behind it, at most 16 MB. An event may have
 *   8 MB. What is given up is a warning here and a `Gap` elsewhere.
 * - A node says that it is there at every `heartbeat`, must hear itself in half of one (at most 5 seconds) or is
 *   `disconnected`, and is gone for the others after three without a sign, or at once when its scope closes. A connection
 *   that the client mends sooner by itself costs a `Gap` if something was missed, and no change of the status.
 *
 * ```ts
 * import { NodeRedis } from "@effect/platform-node"
 * import { PubSub } from "@coppice/pubsub"
 * import { Layer } from "effect"
 *
 * export const layer = PubSub.layerRedis().pipe(Layer.provide(NodeRedis.layer({ url: "redis://localhost:6379" })))
 * ```
 */
import { Clock, Duration, Effect, Schema } from "effect"
import type { Redis } from "effect/persistence/Redis"
import type * as Adapter from "./Adapter.ts"
import { start } from "./internal/redis/adapter.ts"

export interface Options {
  /** What all nodes listen to. Redis keeps channels apart by name alone, not by database. Defaults to `coppice_pubsub`. */
  readonly channel?: string | undefined
  /** How often a quiet node says that it is there. The same on all nodes. Defaults to 10 seconds. */
  readonly heartbeat?: Duration.Input | undefined
}

/** At the start, this node could not publish or did not hear what it published itself. */
export class RedisUnavailable extends Schema.TaggedError<RedisUnavailable>("@coppice/pubsub/RedisUnavailable")(
  "RedisUnavailable",
  { channel: Schema.String, cause: Schema.Defect() }
) {
  override get message(): string {
    return (
      `The channel ${this.channel} of Redis does not work: see the cause. Check that the server is there, and that its user`
      + " may PUBLISH and SUBSCRIBE to this channel (ACL)"
    )
  }
}

/** What `PubSub.layerRedis` is made of. */
export const make =
  (options?: Options): Adapter.Make<RedisUnavailable, Redis> =>
  (node, receiver) => {
    const channel = options?.channel ?? "coppice_pubsub"
    const heartbeatMillis = Duration.toMillis(options?.heartbeat ?? "10 seconds")
    return start({ channel, heartbeatMillis, node, receiver }).pipe(
      Effect.mapError((cause) => new RedisUnavailable({ channel, cause })),
      // Sockets go by the live clock, also where a test moves another.
      Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
    )
  }
