/**
 * Broadcasting events to whoever is interested, on this node and on others: Phoenix.PubSub with types, bound to commits.
 *
 * Inside `sql.withTransaction` a broadcast happens after the outermost commit, here and elsewhere, and never after a
 * rollback, of a savepoint neither. Events are delivered at most once, those of one node in order. Each subscription has a
 * queue of its own: a slow one loses its oldest events and is told how many, and nobody else notices.
 *
 * ```ts
 * import { PubSub, Topic } from "@coppice/pubsub"
 * import { Effect, Schema, Stream } from "effect"
 *
 * const Greetings = Topic.make("greetings", { key: Schema.String, event: Schema.String })
 *
 * export const program = Effect.gen(function*() {
 *   const { events } = yield* PubSub.subscribe(Greetings("en"))
 *   yield* PubSub.broadcast(Greetings("en"), "hello")
 *   return yield* Stream.runHead(events)
 * }).pipe(Effect.scoped, Effect.provide(PubSub.layerLocal))
 * ```
 */
import { Process } from "@coppice/supervision"
import type { PgClient } from "@effect/sql-pg"
import {
  Cause,
  Context,
  Effect,
  Exit,
  type Fiber,
  Layer,
  Option,
  Schema,
  type Scope,
  Stream,
  SubscriptionRef
} from "effect"
import type { Redis } from "effect/persistence"
import { SqlClient } from "effect/sql"
import type * as Adapter from "./Adapter.ts"
import { Hub } from "./internal/hub.ts"
import { nodeId } from "./internal/nodeId.ts"
import { reports } from "./internal/reports.ts"
import type { MigrationsError } from "./Migrations.ts"
import * as PostgresAdapter from "./PostgresAdapter.ts"
import * as RedisAdapter from "./RedisAdapter.ts"
import type { Message, SubscribeOptions, SubscriberTooSlow, Subscription } from "./Subscription.ts"
import type { Topic } from "./Topic.ts"

/** An event that other nodes cannot be sent: its schema does not encode it. Nobody was sent it. */
export class InvalidEvent extends Schema.TaggedError<InvalidEvent>("@coppice/pubsub/InvalidEvent")("InvalidEvent", {
  topic: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `An event of ${this.topic} cannot be broadcast: ${this.problem}`
  }
}

/**
 * What the service offers. The functions of this module of the same names are how it is used: what is called on a service
 * that was kept, where there is no `PubSub` in the context, does not outlive a crash of that service.
 */
export interface Shape {
  /** The id of this node: another one each time that the process starts. */
  readonly node: string
  readonly subscribe: <Event>(
    topic: Topic<Event>,
    options?: SubscribeOptions
  ) => Effect.Effect<Subscription<Event>, never, Scope.Scope>
  readonly broadcast: <Event>(topic: Topic<Event>, event: NoInfer<Event>) => Effect.Effect<void, InvalidEvent>
  readonly broadcastNow: <Event>(topic: Topic<Event>, event: NoInfer<Event>) => Effect.Effect<void, InvalidEvent>
  readonly broadcastFrom: <Event>(
    from: Subscription<Event>,
    topic: Topic<Event>,
    event: NoInfer<Event>
  ) => Effect.Effect<void, InvalidEvent>
  readonly localBroadcast: <Event>(topic: Topic<Event>, event: NoInfer<Event>) => Effect.Effect<void>
  readonly directBroadcast: <Event>(
    node: string,
    topic: Topic<Event>,
    event: NoInfer<Event>
  ) => Effect.Effect<void, InvalidEvent>
  readonly subscriberCount: <Event>(topic: Topic<Event>) => Effect.Effect<number>
  readonly status: Effect.Effect<Adapter.Status>
  /** The present status, and each that follows it. Does not end. */
  readonly statusChanges: Stream.Stream<Adapter.Status>
  /** Waits until what was broadcast so far has left this node, or was given up. */
  readonly flush: Effect.Effect<void>
  /** Takes over a subscription of a service in whose place this one is. False: this one has stopped as well. */
  readonly adopt: (subscription: object) => Effect.Effect<boolean>
}

/** The service. */
export class PubSub extends Context.Service<PubSub, Shape>()("@coppice/pubsub/PubSub") {}

// --------------------------------------------------------------------------------------------------------------------
// layers
// --------------------------------------------------------------------------------------------------------------------

/** A PubSub of this process alone. Commits are those of the `SqlClient` that is there, if there is one. */
export const layerLocal: Layer.Layer<PubSub> = Layer.effect(
  PubSub,
  Effect.gen(function* () {
    const hub = yield* openHub
    const status = Stream.concat(Stream.succeed("solitary" as const), Stream.never)
    return make(hub, undefined, Effect.succeed("solitary"), status, yield* clientOfLayer)
  })
)

/** A PubSub whose nodes are connected by an adapter. */
export const layerAdapter = <E, R>(adapter: Adapter.Make<E, R>): Layer.Layer<PubSub, E, Exclude<R, Scope.Scope>> =>
  Layer.effect(
    PubSub,
    Effect.gen(function* () {
      const hub = yield* openHub
      const status = yield* SubscriptionRef.make<Adapter.Status>("disconnected")
      const services = yield* Effect.context<never>()
      const running = yield* adapter(hub.node, {
        deliver: (message, from) => hub.receive(message, from),
        gap: (reason) => hub.gap(reason),
        status: (next) => {
          Effect.runSyncWith(services)(SubscriptionRef.set(status, next))
        }
      })
      return make(hub, running, SubscriptionRef.get(status), SubscriptionRef.changes(status), yield* clientOfLayer)
    })
  )

/**
 * A PubSub whose nodes share a PostgreSQL database; see `PostgresAdapter`. It uses where the client's configuration leads,
 * by connections of its own. `Migrations.SchemaName` says where its tables are, and keeps apart who has another one.
 *
 * ```ts
 * import { Postgres } from "@coppice/postgres"
 * import { PubSub } from "@coppice/pubsub"
 * import { Layer } from "effect"
 *
 * export const layer = PubSub.layerPostgres().pipe(Layer.provideMerge(Postgres.layer))
 * ```
 */
export const layerPostgres = (
  options?: PostgresAdapter.Options
): Layer.Layer<PubSub, PostgresAdapter.ListenUnavailable | MigrationsError, PgClient.PgClient> =>
  layerAdapter(PostgresAdapter.make(options))

/**
 * A PubSub whose nodes share a channel of a Redis server; see `RedisAdapter`. Commits are those of the `SqlClient` that is
 * there, if there is one.
 */
export const layerRedis = (
  options?: RedisAdapter.Options
): Layer.Layer<PubSub, RedisAdapter.RedisUnavailable, Redis.Redis> => layerAdapter(RedisAdapter.make(options))

/** Subscriptions of a node that ends with the scope. */
const openHub: Effect.Effect<Hub, never, Scope.Scope> = Effect.gen(function* () {
  const hub = new Hub(yield* nodeId, yield* reports)
  yield* Effect.addFinalizer(() => Effect.sync(() => hub.stop()))
  return hub
})

type Client = SqlClient.SqlClient

const clientOfLayer = Effect.map(Effect.serviceOption(SqlClient.SqlClient), Option.getOrUndefined)

const make = (
  hub: Hub,
  adapter: Adapter.Adapter | undefined,
  status: Effect.Effect<Adapter.Status>,
  statusChanges: Stream.Stream<Adapter.Status>,
  client: Client | undefined
): Shape => {
  /** Puts an event into the queues of this node, and lets their consumers have a turn before they overflow. */
  const deliver = (topic: string, event: unknown, from?: object): Effect.Effect<void> =>
    hub.dispatch(topic, event, from) ? Effect.yieldNow : Effect.void

  /** Delivers here and sends to all other nodes. */
  const send = (topic: string, event: unknown, json: unknown, from?: object): Effect.Effect<void> => {
    const delivered = deliver(topic, event, from)
    adapter?.send({ topic, event: json })
    return delivered
  }

  /** An event as other nodes get it, if there are any. */
  const encoded = <Event>(topic: Topic<Event>, event: Event): unknown => {
    if (adapter === undefined) return undefined
    const json = topic.codec.encode(event)
    return Exit.isSuccess(json) ? json.value : new InvalidEvent({ topic: topic.id, problem: problemOf(json.cause) })
  }

  /**
   * After the commit of the transaction that a fiber is in, or now. If this PubSub has stopped meanwhile, `again` is what the
   * one does that has taken its place: under a supervisor, the handle that the fiber has leads there.
   */
  const committed = (
    fiber: Fiber.Fiber<unknown, unknown>,
    use: () => Effect.Effect<void>,
    again: (pubsub: Shape) => Effect.Effect<void, InvalidEvent>
  ): Effect.Effect<void> => {
    const sql = transacting(fiber.context, Context.getOrUndefined(fiber.context, SqlClient.SqlClient), client)
    if (sql === undefined) return use()
    // Neither the fiber nor its context may be part of the hook, which would hold the transaction that holds it: a ring that
    // only the slow half of the collector of garbage breaks.
    const pubsub = Context.getOrUndefined(fiber.context, PubSub)
    return sql.afterCommit(
      Effect.suspend(() => {
        if (!hub.stopped) return use()
        return pubsub === undefined || pubsub === service ? Effect.die(new Error(stopped)) : Effect.orDie(again(pubsub))
      })
    )
  }

  const broadcast = <Event>(
    topic: Topic<Event>,
    event: Event,
    from?: Subscription<Event>
  ): Effect.Effect<void, InvalidEvent> =>
    Effect.withFiber((fiber) => {
      const json = encoded(topic, event)
      if (json instanceof InvalidEvent) return Effect.fail(json)
      return committed(
        fiber,
        () => send(topic.id, event, json, from),
        (pubsub) => (from === undefined ? pubsub.broadcast(topic, event) : pubsub.broadcastFrom(from, topic, event))
      )
    })

  const localBroadcast = <Event>(topic: Topic<Event>, event: Event): Effect.Effect<void> =>
    Effect.withFiber((fiber) =>
      committed(
        fiber,
        () => deliver(topic.id, event),
        (pubsub) => pubsub.localBroadcast(topic, event)
      )
    )

  const directBroadcast = <Event>(node: string, topic: Topic<Event>, event: Event): Effect.Effect<void, InvalidEvent> =>
    Effect.withFiber((fiber) => {
      const json = encoded(topic, event)
      if (json instanceof InvalidEvent) return Effect.fail(json)
      return committed(
        fiber,
        () => Effect.sync(() => adapter?.send({ topic: topic.id, event: json }, node)),
        (pubsub) => pubsub.directBroadcast(node, topic, event)
      )
    })

  const service: Shape = {
    node: hub.node,
    subscribe: (topic, options) =>
      Effect.withFiber((fiber) => hub.subscribe(topic, options, Context.getOrUndefined(fiber.context, PubSub))),
    broadcast: (topic, event) => broadcast(topic, event),
    broadcastNow: (topic, event) =>
      Effect.suspend(() => {
        const json = encoded(topic, event)
        return json instanceof InvalidEvent ? Effect.fail(json) : send(topic.id, event, json)
      }),
    broadcastFrom: (from, topic, event) => broadcast(topic, event, from),
    localBroadcast,
    directBroadcast: (node, topic, event) =>
      node === hub.node ? localBroadcast(topic, event) : directBroadcast(node, topic, event),
    subscriberCount: (topic) => Effect.sync(() => hub.count(topic.id)),
    status,
    statusChanges,
    flush: adapter?.flush ?? Effect.void,
    adopt: (subscription) => Effect.sync(() => hub.adopt(subscription))
  }
  return service
}

const stopped =
  "A broadcast was lost: its PubSub stopped before the transaction committed, and whoever called the service itself had no"
  + " PubSub in the context that could take its place. Use the functions of the module, such as PubSub.broadcast"

/** The first of these clients that a context has a transaction of. */
const transacting = (context: Context.Context<never>, ...clients: ReadonlyArray<Client | undefined>) =>
  clients.find((sql) => sql !== undefined && Context.getOrUndefined(context, sql.transactionService) !== undefined)

const problemOf = (cause: Cause.Cause<Schema.SchemaError>): string => {
  const [reason] = cause.reasons
  return reason !== undefined && Cause.isFailReason(reason)
    ? `it does not fit its schema: ${reason.error.message}`
    : `it could not be encoded: ${Cause.pretty(cause)}`
}

// --------------------------------------------------------------------------------------------------------------------
// operations
// --------------------------------------------------------------------------------------------------------------------

/**
 * Subscribes to a topic until the scope closes. What is broadcast after this effect has ended is delivered, so subscribe
 * first, then read the state, then follow the stream. Subscribing twice delivers twice, as in Phoenix.
 */
export const subscribe = <Event>(
  topic: Topic<Event>,
  options?: SubscribeOptions
): Effect.Effect<Subscription<Event>, never, PubSub | Scope.Scope> =>
  PubSub.use((pubsub) => pubsub.subscribe(topic, options))

/** A subscription as a stream, which subscribes when it starts. */
export const stream = <Event>(
  topic: Topic<Event>,
  options?: SubscribeOptions
): Stream.Stream<Message<Event>, SubscriberTooSlow, PubSub> =>
  Stream.unwrap(Effect.map(subscribe(topic, options), ({ messages }) => messages))

/**
 * Handles every message of a topic, one after the other, in a fiber of the process (`Process.link`): it ends with the
 * process, and its failure is the process's crash. It is subscribed when this effect has ended.
 */
export const handle = <Event, E, R>(
  topic: Topic<Event>,
  handler: (message: Message<Event>) => Effect.Effect<void, E, R>,
  options?: SubscribeOptions
): Effect.Effect<void, never, PubSub | Process.Process | Scope.Scope | R> =>
  Effect.gen(function* () {
    const { messages } = yield* subscribe(topic, options)
    yield* Process.link(Stream.runForEach(messages, handler))
  })

/**
 * Broadcasts an event to the subscribers of a topic on all nodes, after the commit of the transaction that is open, or now.
 *
 * If the process ends between the commit and the broadcast, the event is lost: where that matters, use a durable topic.
 */
export const broadcast = <Event>(
  topic: Topic<Event>,
  event: NoInfer<Event>
): Effect.Effect<void, InvalidEvent, PubSub> => PubSub.use((pubsub) => pubsub.broadcast(topic, event))

/** Broadcasts now, also inside a transaction, and whatever becomes of that. */
export const broadcastNow = <Event>(
  topic: Topic<Event>,
  event: NoInfer<Event>
): Effect.Effect<void, InvalidEvent, PubSub> => PubSub.use((pubsub) => pubsub.broadcastNow(topic, event))

/** As `broadcast`, but not to one subscription. */
export const broadcastFrom = <Event>(
  from: Subscription<Event>,
  topic: Topic<Event>,
  event: NoInfer<Event>
): Effect.Effect<void, InvalidEvent, PubSub> => PubSub.use((pubsub) => pubsub.broadcastFrom(from, topic, event))

/** As `broadcast`, but on this node alone; the event is not encoded. */
export const localBroadcast = <Event>(topic: Topic<Event>, event: NoInfer<Event>): Effect.Effect<void, never, PubSub> =>
  PubSub.use((pubsub) => pubsub.localBroadcast(topic, event))

/** As `broadcast`, but on one node alone. A node that is not there is nobody, as in Phoenix. */
export const directBroadcast = <Event>(
  node: string,
  topic: Topic<Event>,
  event: NoInfer<Event>
): Effect.Effect<void, InvalidEvent, PubSub> => PubSub.use((pubsub) => pubsub.directBroadcast(node, topic, event))

/** How many subscriptions a topic has on this node. */
export const subscriberCount = <Event>(topic: Topic<Event>): Effect.Effect<number, never, PubSub> =>
  PubSub.use((pubsub) => pubsub.subscriberCount(topic))
