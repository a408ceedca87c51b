/** The service behind a presence: a tracker, those who read from it, and what `fetch` adds. */
import { Effect, Exit, Fiber, type Pull, type Schema, type Scope, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { PubSub } from "../../PubSub.ts"
import { type AnyDiff, type AnyEntry, type AnyPresent, type Item, itemsOf, Net } from "./entry.ts"
import type { Checked } from "./options.ts"
import { type ChangeReader, type DiffReader, Readers } from "./readers.ts"
import { reach } from "../reach.ts"
import type { Registration } from "./registration.ts"
import { type Peer, Replicas } from "./replicas.ts"
import { type Reports, reportsOf } from "./reports.ts"
import { Roster } from "./roster.ts"
import { type Adopts, type Shared, Tracker } from "./tracker.ts"
import { topicOf, type Tuple } from "./wire.ts"

export type Fetch = (topic: unknown, present: AnyPresent) => Effect.Effect<ReadonlyMap<string, unknown>, unknown>

/** A topic as it is given, and as nodes call it. */
export interface TopicKey {
  readonly key: unknown
  readonly id: string
}

/** Diffs from a list on. */
export interface Following {
  readonly present: AnyPresent
  readonly pull: Pull.Pull<NonEmptyReadonlyArray<AnyDiff>>
  /** When the diffs have ended: who was here last, and whether there may be another process to follow. */
  readonly end: () => { readonly present: AnyPresent; readonly goesOn: boolean }
}

/** The members that take a `handle` are given what they are called on, which outlives this process or is the service. */
export interface Service extends Adopts {
  readonly node: string
  readonly enter: (handle: object, registration: Registration) => Effect.Effect<void>
  readonly list: (topic: TopicKey) => Effect.Effect<AnyPresent>
  readonly getByKey: (topic: TopicKey, key: string) => Effect.Effect<ReadonlyArray<AnyEntry>>
  /** `again` where a former process was followed: then it waits until this one knows of the other nodes. */
  readonly follow: (handle: object, topic: TopicKey, again: boolean) => Effect.Effect<Following, never, Scope.Scope>
  readonly followList: (
    handle: object,
    topic: TopicKey,
    again: boolean
  ) => Effect.Effect<{ readonly pull: Pull.Pull<AnyPresent>; readonly goesOn: boolean }, never, Scope.Scope>
  readonly peers: Effect.Effect<ReadonlyArray<Peer>>
  readonly tracked: Effect.Effect<number>
}

interface Spec {
  readonly name: string
  readonly decodeMeta: (json: unknown) => Exit.Exit<unknown, Schema.SchemaError>
  readonly fetch: Fetch | undefined
  readonly options: Checked
  readonly shared: Shared
}

export const make = Effect.fnUntraced(function* ({ decodeMeta, fetch, name, options, shared }: Spec) {
  const pubsub = yield* PubSub
  const scope = yield* Effect.scope
  const services = yield* Effect.context<never>()
  const topic = topicOf(name)
  const reports = reportsOf(name, services)
  const fetched = fetch === undefined ? undefined : makeFetched(fetch, options, reports)
  const readers = new Readers(
    fetched === undefined ? undefined : fetchForDiffs(fetched),
    (effect) => void Effect.runForkWith(services)(Effect.forkIn(effect, scope, { startImmediately: true }))
  )
  const roster = new Roster((topic, diff) => readers.tell(topic, diff))
  const decode = ([topic, key, ref, previousRef, json]: Tuple, from: string): Item | undefined => {
    const meta = decodeMeta(json)
    if (Exit.isSuccess(meta)) {
      const entry = { ref, previousRef: previousRef ?? undefined, node: from, meta: meta.value, fetched: undefined }
      return { topic, key, entry }
    }
    reports.undecodable(from, meta.cause)
    return undefined
  }
  const replicas = new Replicas(roster, options, decode)
  // A node has thousands of messages waiting only if it stood still: then it asks for what it missed.
  const subscription = yield* pubsub.subscribe(topic, { capacity: 8_192 })
  // Not before: if PubSub is a process that is just restarting, it has been the former one's until now.
  const { node } = pubsub
  const parts = { node, topic, pubsub, options, shared, roster, replicas, readers, reports, services }
  const tracker = new Tracker(parts)

  const follow = <A>(handle: object, again: boolean, open: (goesOn: boolean) => A, release: (opened: A) => void) =>
    Effect.suspend(() => {
      // A process that has ended is reached by those alone who are stopped with it.
      if (tracker.closed && handle !== service) return Effect.never
      return Effect.acquireRelease(
        Effect.sync(() => open(handle !== service)),
        (opened) => Effect.sync(() => release(opened))
      )
    }).pipe(again ? Effect.delay(tracker.settlesIn) : (effect) => effect)

  /** What is fetched for a list, which is the same map until somebody comes or leaves. */
  const fetching = new WeakMap<AnyPresent, Fiber.Fiber<AnyPresent>>()
  /** Fetches once for all who follow a list. */
  const listForAll = ({ id, key }: TopicKey): Effect.Effect<AnyPresent> =>
    Effect.gen(function* () {
      const present = roster.list(id)
      if (fetched === undefined || present.size === 0) return present
      // Not in the fiber of one of them, who may leave meanwhile.
      const fiber = fetching.get(present) ?? (yield* Effect.forkIn(fetched(key, present), scope))
      fetching.set(present, fiber)
      const exit = yield* Fiber.await(fiber)
      // It always succeeds, unless this process ends.
      return Exit.isSuccess(exit) ? exit.value : present
    })

  const service: Service = {
    node,
    enter: (handle, registration) =>
      Effect.sync(() => {
        if (!tracker.closed) tracker.enter(registration)
        else if (handle !== service) tracker.handTo(handle, [registration])
      }),
    adopt: (_handle, registrations, from) =>
      Effect.suspend(() => {
        if (tracker.closed) return Effect.never
        return Effect.sync(() => tracker.adopt(registrations, from))
      }),
    list: ({ id, key }) =>
      Effect.suspend(() => {
        const present = roster.list(id)
        return fetched === undefined ? Effect.succeed(present) : fetched(key, present)
      }),
    getByKey: (topic, key) =>
      Effect.suspend(() => {
        const entries = roster.getByKey(topic.id, key)
        if (fetched === undefined || entries.length === 0) return Effect.succeed(entries)
        return Effect.map(fetched(topic.key, new Map([[key, entries]])), (present) => present.get(key) ?? [])
      }),
    follow: (handle, { id, key }, again) =>
      follow(
        handle,
        again,
        (goesOn) => {
          const reader: DiffReader = readers.followDiffs(id, key)
          if (tracker.closed) reader.close()
          const end = () => ({ present: roster.list(id), goesOn })
          return { reader, following: { present: roster.list(id), pull: reader.pull, end } }
        },
        ({ reader }) => readers.leave(id, reader)
      ).pipe(
        Effect.flatMap(({ following }) =>
          fetched === undefined
            ? Effect.succeed(following)
            : Effect.map(fetched(key, following.present), (present) => ({ ...following, present }))
        )
      ),
    followList: (handle, topic, again) =>
      follow(
        handle,
        again,
        (goesOn) => {
          const reader: ChangeReader = readers.followChanges(topic.id, topic.key)
          if (tracker.closed) reader.close()
          return { reader, goesOn, pull: Effect.flatMap(reader.pull, () => listForAll(topic)) }
        },
        ({ reader }) => readers.leave(topic.id, reader)
      ),
    peers: Effect.sync(() => replicas.peers()),
    tracked: Effect.sync(() => tracker.tracked)
  }

  yield* Effect.addFinalizer((exit) => tracker.close(exit, service))
  yield* Effect.forkScoped(
    Stream.runForEach(subscription.messages, (message) => Effect.sync(() => tracker.receive(message)))
  )
  yield* Effect.forkScoped(Effect.forever(tracker.turn))
  return service
})

// --------------------------------------------------------------------------------------------------------------------
// fetching
// --------------------------------------------------------------------------------------------------------------------

type Fetched = (topic: unknown, present: AnyPresent) => Effect.Effect<AnyPresent>

/** Entries with what is fetched for their keys. Whatever `fetch` does, there are entries, if without. */
const makeFetched =
  (fetch: Fetch, options: Checked, reports: Reports): Fetched =>
  (topic, present) => {
    if (present.size === 0) return Effect.succeed(present)
    return Effect.suspend(() => fetch(topic, present)).pipe(
      Effect.timeout(options.fetchMillis),
      Effect.map((found) => attach(present, found)),
      Effect.catchCause((cause) => {
        reports.fetchFailed(topic, cause)
        return Effect.succeed(present)
      })
    )
  }

const attach = (present: AnyPresent, found: ReadonlyMap<string, unknown>): AnyPresent => {
  const attached = new Map<string, ReadonlyArray<AnyEntry>>()
  for (const [key, entries] of present) {
    const fetched = found.get(key)
    attached.set(key, fetched === undefined ? entries : entries.map((entry) => ({ ...entry, fetched })))
  }
  return attached
}

/** One call for the keys of all the diffs. */
const fetchForDiffs = (fetched: Fetched) => (topic: unknown, diffs: ReadonlyArray<AnyDiff>) => {
  const concerned = new Map<string, Array<AnyEntry>>()
  for (const diff of diffs) {
    for (const [key, entries] of [...diff.leaves, ...diff.joins]) {
      const all = concerned.get(key)
      if (all === undefined) concerned.set(key, [...entries])
      else all.push(...entries)
    }
  }
  return Effect.map(fetched(topic, concerned), (present) => {
    const known = new Map<string, unknown>()
    for (const [key, entries] of present) known.set(key, entries[0]?.fetched)
    return diffs.map(({ joins, leaves }) => ({ joins: attach(joins, known), leaves: attach(leaves, known) }))
  })
}

// --------------------------------------------------------------------------------------------------------------------
// following from one process to the next
// --------------------------------------------------------------------------------------------------------------------

/** What has changed from one list to another. */
const between = (before: AnyPresent, after: AnyPresent): ReadonlyArray<AnyDiff> => {
  const net = new Net()
  for (const item of itemsOf("", before)) net.leave(item)
  for (const item of itemsOf("", after)) net.join(item)
  const diff = net.diff()
  return diff === undefined ? [] : [diff]
}

/** The diffs that follow, also when the process that tells of them is restarted: then one tells what it comes to. */
export const diffsOf = (handle: Service, topic: TopicKey, following: Following): Stream.Stream<AnyDiff> =>
  Stream.concat(
    Stream.fromPull(Effect.succeed(following.pull)),
    Stream.suspend(() => {
      const last = following.end()
      if (!last.goesOn) return Stream.empty
      return Stream.unwrap(
        Effect.map(reach(handle.follow(handle, topic, true)), (next) =>
          Stream.concat(Stream.fromIterable(between(last.present, next.present)), diffsOf(handle, topic, next))
        )
      )
    })
  )

/** The list whenever it has changed, from one process to the next. */
export const changesOf = (handle: Service, topic: TopicKey, again = false): Stream.Stream<AnyPresent> =>
  Stream.unwrap(
    Effect.map(
      again ? reach(handle.followList(handle, topic, true)) : handle.followList(handle, topic, false),
      ({ goesOn, pull }) =>
        Stream.concat(
          Stream.fromPull(Effect.succeed(Effect.map(pull, (present) => [present] as const))),
          goesOn ? Stream.suspend(() => changesOf(handle, topic, true)) : Stream.empty
        )
    )
  )
