/**
 * The trail cache: summaries of trails, read through to Postgres.
 *
 * The process only remembers; the reader loads. So no message waits for the database, a reader that finds the process
 * dead or busy goes to Postgres itself, and a crash costs nothing but the entries.
 *
 * A reader that misses gets a lease, and what it loads is kept only under that lease. The news of a change ends the lease,
 * and so does a crash: a summary that was read before a change is not kept once that is known here.
 *
 * News come from all nodes. When some may be missing, nothing is left that they could have been about.
 */
import { PubSub } from "@coppice/pubsub"
import { GenServer } from "@coppice/supervision"
import { Clock, Duration, Effect, Layer, Option } from "effect"
import { Followers } from "./Followers.ts"
import { type TrailId, TrailNotFound, type TrailSummary } from "./Trail.ts"
import { TrailChanges } from "./TrailEvents.ts"
import { ownedBy, Trails } from "./Trails.ts"
import type { UserId } from "./User.ts"

/** How much is remembered, and for how long. */
export interface Options {
  /** Entries; beyond it the one that was kept longest is dropped. Defaults to 1,000. */
  readonly capacity?: number | undefined
  /**
   * Defaults to 5 seconds. Changes are seen as soon as their news is here; this bounds how long one goes unseen whose
   * news was lost with the process that made it.
   */
  readonly timeToLive?: Duration.Input | undefined
}

/** The right to fill in one entry; it has no content, only an identity. */
interface Lease {
  readonly id: TrailId
}

interface Entry {
  readonly summary: TrailSummary
  readonly expiresAt: number
}

interface State {
  readonly capacity: number
  readonly timeToLiveMillis: number
  readonly entries: Map<TrailId, Entry>
  /** The lease of every trail that is being read; readers of one trail share it. */
  readonly leases: Map<TrailId, Lease>
}

export class TrailCache extends GenServer.Service<TrailCache>()("trails/TrailCache", {
  init: (options: Options = {}) =>
    Effect.succeed<State>({
      capacity: options.capacity ?? 1000,
      timeToLiveMillis: Duration.toMillis(Duration.fromInputUnsafe(options.timeToLive ?? "5 seconds")),
      entries: new Map(),
      leases: new Map()
    }),
  calls: {
    lookup: (state, id: TrailId) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const entry = state.entries.get(id)
        if (entry !== undefined && now < entry.expiresAt) {
          return GenServer.reply<Lookup, State>({ _tag: "Hit", summary: entry.summary }, state)
        }
        const lease = state.leases.get(id) ?? { id }
        state.leases.set(id, lease)
        evictBeyond(state.capacity, state.leases)
        return GenServer.reply<Lookup, State>({ _tag: "Miss", lease }, state)
      })
  },
  casts: {
    fill: (state, lease: Lease, summary: TrailSummary) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        if (state.leases.get(lease.id) !== lease) return state
        state.leases.delete(lease.id)
        state.entries.delete(lease.id)
        state.entries.set(lease.id, { summary, expiresAt: now + state.timeToLiveMillis })
        evictBeyond(state.capacity, state.entries)
        return state
      }),
    forget: (state, id: TrailId) =>
      Effect.sync(() => {
        state.entries.delete(id)
        state.leases.delete(id)
        return state
      }),
    forgetAll: (state) =>
      Effect.sync(() => {
        state.entries.clear()
        state.leases.clear()
        return state
      })
  }
}) {}

type Lookup =
  | { readonly _tag: "Hit"; readonly summary: TrailSummary }
  | { readonly _tag: "Miss"; readonly lease: Lease | undefined }

/** What a reader knows when the process did not answer. */
const nothing: Lookup = { _tag: "Miss", lease: undefined }

/** A trail of the owner: from the cache if it is there, else from Postgres. */
export const find = Effect.fn("TrailCache.find")((owner: UserId, id: TrailId) =>
  Effect.flatMap(summary(id), (found) => ownedBy(owner, id, found))
)

/** A trail that somebody may look at: one of theirs, or one that they follow now. */
export const findReadable = Effect.fn("TrailCache.findReadable")(function* (
  reader: UserId,
  id: TrailId
): Effect.fn.Return<TrailSummary, TrailNotFound, TrailCache | Trails | Followers> {
  const followers = yield* Followers
  const found = yield* summary(id)
  if (Option.isNone(found) || found.value.ownerId === reader) return yield* ownedBy(reader, id, found)
  return (yield* followers.follows(reader, id)) ? found.value : yield* new TrailNotFound({ id })
})

const summary = Effect.fnUntraced(function* (
  id: TrailId
): Effect.fn.Return<Option.Option<TrailSummary>, never, TrailCache | Trails> {
  const trails = yield* Trails
  const known = yield* Effect.catchTag(TrailCache.lookup(id), "CallError", () => Effect.succeed(nothing))
  if (known._tag === "Hit") return Option.some(known.summary)
  const found = yield* trails.get(id)
  if (known.lease !== undefined && Option.isSome(found)) yield* TrailCache.fill(known.lease, found.value)
  return found
})

/** The process, which forgets a trail when it has changed. */
export const layer = (options?: Options) =>
  Layer.effectDiscard(
    PubSub.handle(TrailChanges, (message) =>
      message._tag === "Event" ? TrailCache.forget(message.event.id) : TrailCache.forgetAll()
    )
  ).pipe(Layer.provideMerge(TrailCache.layer(options)))

// A map keeps the order in which keys were added.
const evictBeyond = (capacity: number, map: Map<TrailId, unknown>): void => {
  for (const id of map.keys()) {
    if (map.size <= capacity) return
    map.delete(id)
  }
}
