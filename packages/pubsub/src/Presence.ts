/**
 * Who is here, on all nodes, and with what: Phoenix.Presence with types, bound to scopes.
 *
 * `track` says that somebody is here for as long as a scope is open; every node knows of it, with the time that a message
 * takes. A key may be tracked many times at once, as a user with several pages open: each is an entry, and the key has left
 * when there is none. Nothing is stored, so nothing is left to clean.
 *
 * Each node tells the others of its own, over the topics of `PubSub`: of changes at most once in 1.5 seconds, of nothing else
 * every 15. A node that is not heard for 30 seconds is down: its entries are hidden, which is a diff of leaves. If it is heard
 * again, they come back with the same refs. After 20 minutes it is forgotten. Who misses a message sees so, and asks for the
 * whole; all nodes have the same lists when it is quiet. All of these times are those of Effect's `Clock`.
 *
 * Under a supervisor a presence is a process. When it crashes, what is tracked stays tracked: the next process takes it over
 * with its refs, the other nodes notice nothing, and `diffs` and `changes` go on. When PubSub crashes, and this node has
 * another id, presence goes on as well.
 *
 * ```ts
 * import { Presence } from "@coppice/pubsub"
 * import { Effect, Schema, Stream } from "effect"
 *
 * class Viewers extends Presence.Service<Viewers>()("docs/Viewers", {
 *   topic: Schema.Int,
 *   meta: Schema.Struct({ name: Schema.String })
 * }) {}
 *
 * // For as long as the page is open, Ada is among those who look at trail 42, and sees who they are.
 * export const page = Effect.gen(function*() {
 *   yield* Viewers.track(42, "ada", { name: "Ada" })
 *   yield* Stream.runForEach(Viewers.changes(42), (viewers) => Effect.log(`${viewers.size} are here`))
 * }).pipe(Effect.scoped)
 * ```
 */
import { Context, Effect, Layer, References, Schema, type Scope, Stream, Tracer } from "effect"
import type { Diff, Entry, Present } from "./internal/presence/entry.ts"
import type { AlreadyTracked, InvalidMeta } from "./internal/presence/errors.ts"
import { check, InvalidOptions, type Options } from "./internal/presence/options.ts"
import type { Peer } from "./internal/presence/replicas.ts"
import { changesOf, diffsOf, type Fetch, make, type Service as Running } from "./internal/presence/service.ts"
import { type Claims, track, type Tracked } from "./internal/presence/tracked.ts"
import type { Shared } from "./internal/presence/tracker.ts"
import type { PubSub } from "./PubSub.ts"
import type { KeySchema } from "./Topic.ts"

export type { Diff, Entry, Present } from "./internal/presence/entry.ts"
export { AlreadyTracked, InvalidMeta, NotTracked } from "./internal/presence/errors.ts"
export { InvalidOptions, type Options } from "./internal/presence/options.ts"
export type { Peer } from "./internal/presence/replicas.ts"
export type { Tracked } from "./internal/presence/tracked.ts"

// --------------------------------------------------------------------------------------------------------------------
// definition
// --------------------------------------------------------------------------------------------------------------------

/** The schema of metas. They must be encodable without services. */
export type MetaSchema = Schema.Codec<unknown, unknown>

/** What a presence says of its topics, and of those who are here. */
export interface Definition<Topic extends KeySchema, Meta extends MetaSchema, Fetched, R> {
  /** What identifies a topic: an id, encoded as a text or a number. */
  readonly topic: Topic
  /**
   * What is known of each entry. It goes from node to node as the schema's JSON; what a node with older code cannot decode
   * is counted there (`coppice_presence_undecodable_total`) and left out.
   */
  readonly meta: Meta
  /**
   * Looks up more for the keys of a topic, by key, such as the names of users: it becomes `fetched` of their entries. Called
   * for each list, once for all who follow `changes`, and for diffs where somebody on the node follows them: once for all that
   * have come meanwhile, and in order.
   * Its failure, its defect, or more time than `fetchTimeout` is logged and counted (`coppice_presence_fetch_failures_total`),
   * and the entries are given without.
   */
  readonly fetch?: (
    topic: Topic["Type"],
    present: Present<Meta["Type"]>
  ) => Effect.Effect<ReadonlyMap<string, Fetched>, unknown, R>
}

/** Diffs, and the list that they begin with. */
export interface Subscription<Meta, Fetched = never> {
  /** Who was here when it was made. */
  readonly present: Present<Meta, Fetched>
  /** Every change since then. One consumer at a time: two would share them. */
  readonly diffs: Stream.Stream<Diff<Meta, Fetched>>
}

/** The class of a presence: key, layer and client. */
export interface PresenceClass<Self, Name extends string, Topic, Meta, Fetched, R> extends Context.ServiceClass<
  Self,
  `@coppice/pubsub/Presence/${Name}`,
  Running
> {
  /** With the default options. */
  readonly layer: Layer.Layer<Self, never, PubSub | R>
  readonly layerWith: (options: Options) => Layer.Layer<Self, InvalidOptions, PubSub | R>
  /**
   * Says that somebody is here under a key until the scope closes. On this node it is seen when this effect has ended, on
   * others within `broadcastPeriod`. A second time for the same topic and key in one scope is `AlreadyTracked`; in another
   * scope it is another entry.
   */
  readonly track: (
    topic: Topic,
    key: string,
    meta: Meta
  ) => Effect.Effect<Tracked<Meta>, AlreadyTracked | InvalidMeta, Self | Scope.Scope>
  /** Who is here, as this node knows it; without nodes that are down. Read from memory. */
  readonly list: (topic: Topic) => Effect.Effect<Present<Meta, Fetched>, never, Self>
  /** The entries of one key, oldest first; none where nobody is here under it. */
  readonly getByKey: (topic: Topic, key: string) => Effect.Effect<ReadonlyArray<Entry<Meta, Fetched>>, never, Self>
  /**
   * The list and its diffs, without a gap between them, until the scope closes. A reader that is slow gets several diffs as
   * one: what came and left again meanwhile is not in it.
   */
  readonly subscribe: (topic: Topic) => Effect.Effect<Subscription<Meta, Fetched>, never, Self | Scope.Scope>
  /** The changes from the start of the stream on; see `subscribe`. */
  readonly diffs: (topic: Topic) => Stream.Stream<Diff<Meta, Fetched>, never, Self>
  /** The list as it is now, and again whenever it has changed. A reader that is slow gets the latest alone. */
  readonly changes: (topic: Topic) => Stream.Stream<Present<Meta, Fetched>, never, Self>
  /** The other nodes that are known here. */
  readonly peers: Effect.Effect<ReadonlyArray<Peer>, never, Self>
  /** How many entries are tracked on this node. */
  readonly tracked: Effect.Effect<number, never, Self>
}

// --------------------------------------------------------------------------------------------------------------------
// constructor
// --------------------------------------------------------------------------------------------------------------------

/** Makes the class of a presence. The name is what nodes know it by: it is to be the same on all of them. */
export const Service =
  <Self>() =>
  <const Name extends string, Topic extends KeySchema, Meta extends MetaSchema, Fetched = never, R = never>(
    name: Name,
    definition: Definition<Topic, Meta, Fetched, R>
  ): PresenceClass<Self, Name, Topic["Type"], Meta["Type"], Fetched, Exclude<R, Scope.Scope>> => {
    const Tag = Context.Service<Self, Running>()(`@coppice/pubsub/Presence/${name}`)
    const json = Schema.toCodecJson(definition.meta)
    const decodeMeta = Schema.decodeUnknownExit(json)
    const claims: Claims = { presence: name, encodeMeta: Schema.encodeUnknownExit(json), claimed: new WeakMap() }
    const shared: Shared = { handingOver: 0 }
    const encodeTopic = Schema.encodeSync(definition.topic)
    const topicOf = (key: unknown) => ({ key, id: String(encodeTopic(key)) })
    const layerWith = (options: Options) =>
      Layer.effect(
        Tag,
        Effect.gen(function* () {
          const checked = check(options)
          if (typeof checked === "string") return yield* new InvalidOptions({ presence: name, problem: checked })
          const fetch = fetchOf(definition.fetch, yield* Effect.context<unknown>())
          return yield* make({ name, decodeMeta, fetch, options: checked, shared })
        })
      )
    const subscribe = (topic: unknown) =>
      Effect.gen(function* () {
        const service = yield* Tag
        const at = topicOf(topic)
        const following = yield* service.follow(service, at, false)
        return { present: following.present, diffs: diffsOf(service, at, following) }
      })
    const statics = {
      layerWith,
      // The default options are possible.
      layer: Layer.orDie(layerWith({})),
      track: (topic: unknown, key: string, meta: unknown) =>
        Effect.flatMap(Tag, (service) => track(claims, service, topicOf(topic).id, key, meta)),
      list: (topic: unknown) => Effect.flatMap(Tag, (service) => service.list(topicOf(topic))),
      getByKey: (topic: unknown, key: string) =>
        Effect.flatMap(Tag, (service) => service.getByKey(topicOf(topic), key)),
      subscribe,
      diffs: (topic: unknown) => Stream.unwrap(Effect.map(subscribe(topic), ({ diffs }) => diffs)),
      changes: (topic: unknown) => Stream.unwrap(Effect.map(Tag, (service) => changesOf(service, topicOf(topic)))),
      peers: Effect.flatMap(Tag, (service) => service.peers),
      tracked: Effect.flatMap(Tag, (service) => service.tracked)
    }
    // The members just added are those that the type lists; metas and topics are opaque from here on.
    return Object.assign(Tag, statics) as never
  }

// What is fetched belongs to nobody's request, and so to nobody's span.
const withoutPlace = Context.omit(Tracer.ParentSpan, References.CurrentLogAnnotations, References.CurrentLogSpans)

const fetchOf = (
  fetch: ((topic: never, present: never) => Effect.Effect<ReadonlyMap<string, unknown>, unknown, unknown>) | undefined,
  services: Context.Context<unknown>
): Fetch | undefined => {
  if (fetch === undefined) return undefined
  const provided = withoutPlace(services)
  // What it is called with is what its definition says.
  return (topic, present) => Effect.provideContext(fetch(topic as never, present as never), provided)
}
