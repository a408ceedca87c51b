/**
 * A typed topic: what nodes call it, and the schema of its events.
 *
 * Within a node events are passed as they are; between nodes they are JSON, by their schema. Topics match exactly, as in
 * Phoenix: there are no wildcards.
 *
 * ```ts
 * import { Topic } from "@coppice/pubsub"
 * import { Schema } from "effect"
 *
 * const PageCaptured = Schema.TaggedStruct("PageCaptured", { url: Schema.String })
 *
 * // One topic for each trail: TrailTopic(42)
 * export const TrailTopic = Topic.make("trail", { key: Schema.Int, event: PageCaptured })
 * // One topic
 * export const Announcements = Topic.make("announcements", { event: Schema.String })
 * ```
 */
import { type Exit, Schema } from "effect"

/** One topic with events of a type. Two topics with the same id are the same to `PubSub`. */
export interface Topic<in out Event> {
  /** What it is called on every node: its name, and its key after a colon. */
  readonly id: string
  readonly codec: Codec<Event>
}

/** Topics that differ in a key. Throws where the key does not fit its schema. */
export interface Family<in Key, in out Event> {
  (key: Key): Topic<Event>
  readonly topicName: string
  readonly codec: Codec<Event>
}

/** How events of a topic travel between nodes. */
export interface Codec<in out Event> {
  readonly encode: (event: Event) => Exit.Exit<unknown, Schema.SchemaError>
  readonly decode: (json: unknown) => Exit.Exit<Event, Schema.SchemaError>
}

/** The schema of a key: what identifies an entity, encoded as a text or a number. */
export type KeySchema = Schema.Codec<unknown, string | number>

/** The schema of events. They must be encodable without services. */
export type EventSchema = Schema.Codec<unknown, unknown>

/**
 * A topic, or with a `key` a family of topics. The name may not contain a colon. Events of one topic should be a tagged
 * union, so that nodes with older code can tell which they do not know.
 */
export const make: {
  <Key extends KeySchema, Event extends EventSchema>(
    name: string,
    options: { readonly key: Key; readonly event: Event }
  ): Family<Key["Type"], Event["Type"]>
  <Event extends EventSchema>(name: string, options: { readonly event: Event }): Topic<Event["Type"]>
} = (name: string, options: { readonly key?: KeySchema; readonly event: EventSchema }) => {
  if (name === "" || name.includes(":")) {
    throw new Error(`${JSON.stringify(name)} cannot be the name of a topic: use a text without ":" that is not empty`)
  }
  const codec = codecOf(options.event)
  const { key } = options
  // The overloads say which of the two it is.
  if (key === undefined) return { id: name, codec } as never
  const encodeKey = Schema.encodeSync(key)
  const family = (value: unknown): Topic<unknown> => ({ id: `${name}:${encodeKey(value)}`, codec })
  return Object.assign(family, { topicName: name, codec }) as never
}

const codecOf = (event: EventSchema): Codec<unknown> => {
  const json = Schema.toCodecJson(event)
  return { encode: Schema.encodeUnknownExit(json), decode: Schema.decodeUnknownExit(json) }
}
