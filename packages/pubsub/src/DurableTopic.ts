/**
 * Topics whose events are kept: written with the transaction that they tell of, and read from any position on.
 *
 * An event is written by the transaction that publishes it and exists exactly if that commits. Readers see all events of a
 * topic in one order, each once: first what is there, then what comes. The order is that of the numbers that transactions
 * get when they first write, and an event is shown when no transaction with a lower number is in progress in the whole
 * database server: so nothing is ever inserted before what somebody has read. A transaction that stays open holds back
 * what was published after it began to write; `lag.held` counts it. The events of a transaction follow each other, in the
 * order in which they were published.
 *
 * ```ts
 * import { DurableTopic } from "@coppice/pubsub"
 * import { Effect, Schema } from "effect"
 *
 * const OrderPlaced = Schema.TaggedStruct("OrderPlaced", { order: Schema.Int })
 * const Orders = DurableTopic.make("orders", { event: OrderPlaced, retention: "30 days" })
 *
 * export const place = DurableTopic.publish(Orders, OrderPlaced.make({ order: 1 }))
 *
 * // A child of a supervisor: Child.effect("billing", billing)
 * export const billing = DurableTopic.consume(Orders, "billing", ({ event }) => Effect.log(`order ${event.order}`))
 * ```
 */
import { type DateTime, Duration, Effect, Layer, type Option, type Schedule, Stream } from "effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { DurableTopics } from "./internal/durable/durableTopics.ts"
import { EventsPruned, type InvalidOption, type UndecodableEvent } from "./internal/durable/errors.ts"
import type { Position } from "./internal/durable/position.ts"
import * as Start from "./internal/durable/start.ts"
import type { MigrationsError } from "./Migrations.ts"
import type { InvalidEvent, PubSub } from "./PubSub.ts"
import * as Topic from "./Topic.ts"

export { EventsPruned, InvalidOption, UndecodableEvent } from "./internal/durable/errors.ts"
export { DurableTopics } from "./internal/durable/durableTopics.ts"
export { Position } from "./internal/durable/position.ts"
export { TimeSource } from "./internal/durable/time.ts"

/** A topic whose events are kept. */
export interface DurableTopic<in out Event> {
  /** Its id and the codec of its events. To broadcast on it is something else, and nothing that is kept. */
  readonly topic: Topic.Topic<Event>
  /** How long an event is kept after it was published. */
  readonly retention: Duration.Duration
}

/** Durable topics that differ in a key. Throws where the key does not fit its schema, or holds NUL. */
export interface Family<in Key, in out Event> {
  (key: Key): DurableTopic<Event>
  readonly topicName: string
  readonly retention: Duration.Duration
}

/** Where somebody begins to read: with the oldest event that is kept, with what comes, or after a position. */
export type From = "beginning" | "now" | Position

/** An event as it was written. */
export interface Stored<out Event> {
  readonly position: Position
  readonly event: Event
  /** When it was written, not when it was committed. */
  readonly insertedAt: DateTime.Utc
}

/** What a stream of a topic has. */
export type Message<Event> =
  | (Stored<Event> & { readonly _tag: "Event" })
  /** An event that this code does not know; newer code may. */
  | {
      readonly _tag: "Undecodable"
      readonly position: Position
      readonly insertedAt: DateTime.Utc
      readonly error: UndecodableEvent
    }
  /** Events after one position, up to another, were removed because of their age before they were read. */
  | { readonly _tag: "Pruned"; readonly after: Position; readonly until: Position }

/** How a consumer consumes. */
export interface ConsumeOptions<E = never, R = never> {
  /** Where a consumer begins that has no position yet. Defaults to `"beginning"`. */
  readonly from?: From | undefined
  /**
   * How many events are handled in one transaction at most; fewer where they are large. Defaults to 100; from 1 to 10,000. Let
   * it be 1 where handling takes long: what the first event of a batch writes is locked, and holds others back, until the last.
   */
  readonly batchSize?: number | undefined
  /**
   * How long a node may be silent, frozen or cut off, until the server ends its transaction and another takes over.
   * Defaults to 30 seconds; 100 ms or more. A handler may take longer, but not block the event loop for so long.
   */
  readonly lease?: Duration.Input | undefined
  /**
   * When to try again after a failure; starts anew after each success. When it ends, the consumer fails. Defaults to after 1
   * second, twice as long each time, a minute at most, for ever.
   */
  readonly retry?: Schedule.Schedule<unknown, unknown> | undefined
  /** What becomes of an event that this code does not know. Defaults to a failure, which is tried again. */
  readonly onUndecodable?: ((error: UndecodableEvent) => Effect.Effect<void, E | UndecodableEvent, R>) | undefined
  /**
   * What becomes of events that were removed before the consumer read them. When this succeeds, it goes on with the oldest
   * that is kept. Defaults to a failure, which is tried again.
   */
  readonly onPruned?: ((missed: EventsPruned) => Effect.Effect<void, E | EventsPruned, R>) | undefined
}

/** A consumer that has a position. */
export interface ConsumerState {
  readonly consumer: string
  /** The last event that it has handled. */
  readonly position: Position
  /** When that was. */
  readonly updatedAt: DateTime.Utc
  readonly lag: Lag
}

/** What waits for a consumer. */
export interface Lag {
  /** How many events; to count them takes the longer the more there are. */
  readonly unread: number
  /** How many of them nobody sees yet, because a transaction is in progress that began to write before theirs did. */
  readonly held: number
  /** When the oldest of them was written. */
  readonly oldest: Option.Option<DateTime.Utc>
}

/** What the service offers. The functions of this module of the same names are how it is used. */
export interface Shape {
  readonly publish: <Event>(
    topic: DurableTopic<Event>,
    event: NoInfer<Event>
  ) => Effect.Effect<Position, InvalidEvent | SqlError>
  readonly publishMany: <Event>(
    topic: DurableTopic<Event>,
    events: ReadonlyArray<NoInfer<Event>>
  ) => Effect.Effect<ReadonlyArray<Position>, InvalidEvent | SqlError>
  readonly stream: <Event>(
    topic: DurableTopic<Event>,
    options: { readonly from: From }
  ) => Stream.Stream<Message<Event>, SqlError>
  readonly consume: <Event, E, R, E2 = never, R2 = never>(
    topic: DurableTopic<Event>,
    consumer: string,
    handler: (event: Stored<Event>) => Effect.Effect<void, E, R>,
    options?: ConsumeOptions<E2, R2>
  ) => Effect.Effect<never, ConsumeError | E | E2, R | R2>
  readonly now: Effect.Effect<Position, SqlError>
  readonly consumers: <Event>(topic: DurableTopic<Event>) => Effect.Effect<ReadonlyArray<ConsumerState>, SqlError>
  readonly consumer: <Event>(
    topic: DurableTopic<Event>,
    consumer: string
  ) => Effect.Effect<Option.Option<ConsumerState>, SqlError>
  readonly setPosition: <Event>(topic: DurableTopic<Event>, consumer: string, to: From) => Effect.Effect<void, SqlError>
  readonly deleteConsumer: <Event>(topic: DurableTopic<Event>, consumer: string) => Effect.Effect<boolean, SqlError>
}

/** Why a consumer ends, besides the errors of its handler. */
export type ConsumeError = EventsPruned | InvalidOption | SqlError | UndecodableEvent

// --------------------------------------------------------------------------------------------------------------------
// constructors
// --------------------------------------------------------------------------------------------------------------------

/**
 * A durable topic, or with a `key` a family of them, each with an order of its own. Events are kept for `retention`, by
 * default 7 days; `"Infinity"` is for ever. What was published before a change of it keeps the old one. As in Kafka events
 * go when they are too old, also unread ones: who has missed some is told.
 */
export const make: {
  <Key extends Topic.KeySchema, Event extends Topic.EventSchema>(
    name: string,
    options: { readonly key: Key; readonly event: Event; readonly retention?: Duration.Input | undefined }
  ): Family<Key["Type"], Event["Type"]>
  <Event extends Topic.EventSchema>(
    name: string,
    options: { readonly event: Event; readonly retention?: Duration.Input | undefined }
  ): DurableTopic<Event["Type"]>
} = (
  name: string,
  options: {
    readonly key?: Topic.KeySchema
    readonly event: Topic.EventSchema
    readonly retention?: Duration.Input | undefined
  }
) => {
  const { event, key } = options
  const retention = Duration.fromInputUnsafe(options.retention ?? "7 days")
  if (Duration.isNegative(retention)) throw new Error(`Events of ${name} cannot be kept for a negative time`)
  const durable = (topic: Topic.Topic<unknown>): DurableTopic<unknown> => {
    if (topic.id.includes("\u0000") || !topic.id.isWellFormed()) {
      throw new Error(`${JSON.stringify(topic.id)} cannot be a durable topic: PostgreSQL has no such text`)
    }
    return { topic, retention }
  }
  // The overloads say which of the two it is.
  if (key === undefined) return durable(Topic.make(name, { event })) as never
  const family = Topic.make(name, { key, event })
  return Object.assign((value: unknown) => durable(family(value)), { topicName: name, retention }) as never
}

// --------------------------------------------------------------------------------------------------------------------
// layers
// --------------------------------------------------------------------------------------------------------------------

/** How a node reads and cleans up. */
export interface LayerOptions {
  /** Whether to create or upgrade the tables first. Defaults to `true`. */
  readonly migrate?: boolean | undefined
  /** How long a reader waits at most if nobody wakes it; 10 ms or more. Defaults to 1 second, on Effect's clock to 1 hour. */
  readonly pollInterval?: Duration.Input | undefined
  /**
   * How often events are removed that are too old; 10 ms or more. Defaults to 1 minute, on Effect's clock (`TimeSource`) to
   * 1 hour.
   */
  readonly pruneInterval?: Duration.Input | undefined
}

/**
 * Durable topics in the database of the `SqlClient`, in the schema that `Migrations.SchemaName` names. The `PubSub` wakes
 * readers: on one node any will do, on several it is one that connects them, or they wait for their polls.
 */
export const layer = (
  options: LayerOptions = {}
): Layer.Layer<DurableTopics, InvalidOption | MigrationsError, PubSub | SqlClient> =>
  Layer.effect(DurableTopics, Start.make(options))

// --------------------------------------------------------------------------------------------------------------------
// operations
// --------------------------------------------------------------------------------------------------------------------

/**
 * Writes an event in the transaction that is open on the layer's client, or in one of its own, and wakes readers on all nodes
 * after the commit. Nobody is told of what is rolled back.
 */
export const publish = <Event>(
  topic: DurableTopic<Event>,
  event: NoInfer<Event>
): Effect.Effect<Position, InvalidEvent | SqlError, DurableTopics> =>
  Effect.flatMap(DurableTopics, (durable) => durable.publish(topic, event))

/** As `publish`, many in one statement; none if one of them is invalid. */
export const publishMany = <Event>(
  topic: DurableTopic<Event>,
  events: ReadonlyArray<NoInfer<Event>>
): Effect.Effect<ReadonlyArray<Position>, InvalidEvent | SqlError, DurableTopics> =>
  Effect.flatMap(DurableTopics, (durable) => durable.publishMany(topic, events))

/**
 * What happened on a topic after a position, then what happens, without an end. Each stream reads for itself, outside of a
 * transaction, as quickly as it is consumed. A database that cannot be reached at the start is its failure; later it tries
 * again until it can.
 */
export const stream = <Event>(
  topic: DurableTopic<Event>,
  options: { readonly from: From }
): Stream.Stream<Message<Event>, SqlError, DurableTopics> =>
  Stream.unwrap(Effect.map(DurableTopics, (durable) => durable.stream(topic, options)))

/** The events of `stream` alone; fails where there is something else. */
export const events = <Event>(
  topic: DurableTopic<Event>,
  options: { readonly from: From }
): Stream.Stream<Stored<Event>, EventsPruned | SqlError | UndecodableEvent, DurableTopics> =>
  Stream.mapEffect(stream(topic, options), (message): Effect.Effect<Stored<Event>, EventsPruned | UndecodableEvent> => {
    switch (message._tag) {
      case "Event":
        return Effect.succeed(message)
      case "Undecodable":
        return Effect.fail(message.error)
      case "Pruned":
        return Effect.fail(new EventsPruned({ topic: topic.topic.id, after: message.after, until: message.until }))
    }
  })

/**
 * Handles every event of a topic, one after the other, under a name that keeps its position. Never ends by itself.
 *
 * Events are handled in a transaction of the layer's client, which stores the position as well: what the handler writes there
 * happens exactly once, everything else at least once. Over all nodes one consumer of a name is at work at a time; when its
 * process dies the next goes on within a poll interval, when it is silent within `lease`. A handler that fails, dies or
 * cannot commit is tried again (`retry`); the events before it are done, those after it wait. To go on without it, catch
 * the failure in the handler: what the database refused must be in a `withTransaction` of its own for that.
 */
export const consume = <Event, E, R, E2 = never, R2 = never>(
  topic: DurableTopic<Event>,
  consumer: string,
  handler: (event: Stored<Event>) => Effect.Effect<void, E, R>,
  options?: ConsumeOptions<E2, R2>
): Effect.Effect<never, ConsumeError | E | E2, DurableTopics | R | R2> =>
  Effect.flatMap(DurableTopics, (durable) => durable.consume(topic, consumer, handler, options))

/**
 * The position before which nothing can come any more: read it first, then a state, and follow from it. It may be before
 * events that are committed already, so what the state knows may come again.
 */
export const now: Effect.Effect<Position, SqlError, DurableTopics> = Effect.flatMap(DurableTopics, ({ now }) => now)

/** The consumers that have a position in a topic, by name. */
export const consumers = <Event>(
  topic: DurableTopic<Event>
): Effect.Effect<ReadonlyArray<ConsumerState>, SqlError, DurableTopics> =>
  Effect.flatMap(DurableTopics, (durable) => durable.consumers(topic))

/** One of them. */
export const consumer = <Event>(
  topic: DurableTopic<Event>,
  consumer: string
): Effect.Effect<Option.Option<ConsumerState>, SqlError, DurableTopics> =>
  Effect.flatMap(DurableTopics, (durable) => durable.consumer(topic, consumer))

/**
 * Puts a consumer to a position, whether it has one or not. What it is handling meanwhile is undone, unless its own handler
 * does this in its transaction: then it goes there once that has committed.
 */
export const setPosition = <Event>(
  topic: DurableTopic<Event>,
  consumer: string,
  to: From
): Effect.Effect<void, SqlError, DurableTopics> =>
  Effect.flatMap(DurableTopics, (durable) => durable.setPosition(topic, consumer, to))

/** Forgets a consumer; false if there is none. One that runs registers again, as a new one. */
export const deleteConsumer = <Event>(
  topic: DurableTopic<Event>,
  consumer: string
): Effect.Effect<boolean, SqlError, DurableTopics> =>
  Effect.flatMap(DurableTopics, (durable) => durable.deleteConsumer(topic, consumer))
