import { type Adapter, PubSub } from "@coppice/pubsub"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Deferred, Effect, Fiber, Layer, Option, References } from "effect"
import { TestClock } from "effect/testing"
import { TrailId, type TrailSummary } from "../src/Trail.ts"
import * as TrailCache from "../src/TrailCache.ts"
import { Changed, TrailChanges } from "../src/TrailEvents.ts"
import { Trails } from "../src/Trails.ts"
import { UserId } from "../src/User.ts"

const owner = UserId.make(1)
const ids = Array.from({ length: 10 }, (_, n) => TrailId.make(`01a208b4-33b2-72d1-85a5-d8693a2fa0b${n}`))
const [id, otherId] = [ids[0]!, ids[1]!]

/** What the database would say: every trail is there, under a name that a test may change while a read is held back. */
const makeDatabase = () => {
  const database = { name: "before", reads: 0, hold: Effect.void }
  const get = (id: TrailId) =>
    Effect.gen(function* () {
      database.reads++
      const { name } = database
      const createdAt = DateTime.makeUnsafe(0)
      yield* database.hold
      const summary: TrailSummary = { id, ownerId: owner, name, status: "active", version: 1, createdAt, pages: 0 }
      return Option.some(summary)
    })
  return Object.assign(database, { layer: Layer.mock(Trails, { get }) })
}

const App = (options: TrailCache.Options = {}, pubsub = PubSub.layerLocal) =>
  Supervisor.layer("App", {
    strategy: "one_for_one",
    maxRestarts: 100,
    children: [Child.layer("pubsub", pubsub), Child.layer("trail-cache", TrailCache.layer(options))]
  }).pipe(Layer.provideMerge(Tree.layer), Layer.provide(Layer.succeed(References.MinimumLogLevel, "None")))

const nameOf = (id: TrailId) => Effect.map(TrailCache.find(owner, id), ({ name }) => name)
/** The news of a change, which have arrived. */
const changed = (id: TrailId) =>
  Effect.andThen(PubSub.broadcast(TrailChanges, Changed.make({ id })), TestClock.adjust(0))

describe("TrailCache", () => {
  it.effect("reads a trail once, and again when it has changed", () => {
    const database = makeDatabase()
    return Effect.gen(function* () {
      assert.strictEqual(yield* nameOf(id), "before")
      database.name = "after"
      assert.strictEqual(yield* nameOf(id), "before")
      assert.strictEqual(database.reads, 1)
      yield* changed(otherId)
      assert.strictEqual(yield* nameOf(id), "before")
      yield* changed(id)
      assert.strictEqual(yield* nameOf(id), "after")
      assert.strictEqual(database.reads, 2)
    }).pipe(Effect.provide([App(), database.layer]))
  })

  it.effect("does not keep what was read before a change that came during the read", () => {
    const database = makeDatabase()
    return Effect.gen(function* () {
      const go = yield* Deferred.make<void>()
      database.hold = Deferred.await(go)
      const reading = yield* Effect.forkChild(nameOf(id), { startImmediately: true })
      yield* Effect.yieldNow
      assert.strictEqual(database.reads, 1)
      database.name = "after"
      yield* changed(id)
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* Fiber.join(reading), "before")
      assert.strictEqual(yield* nameOf(id), "after")
    }).pipe(Effect.provide([App(), database.layer]))
  })

  it.effect("reads everything again when news of other nodes may be missing", () => {
    const database = makeDatabase()
    let node: Adapter.Receiver | undefined
    const pubsub = PubSub.layerAdapter((_node, receiver) =>
      Effect.sync(() => {
        node = receiver
        return { send: () => {}, flush: Effect.void }
      })
    )
    return Effect.gen(function* () {
      yield* nameOf(id)
      yield* nameOf(otherId)
      node?.deliver({ topic: TrailChanges.id, event: { _tag: "Changed", id } }, "another node")
      yield* TestClock.adjust(0)
      yield* nameOf(id)
      yield* nameOf(otherId)
      assert.strictEqual(database.reads, 3)
      node?.gap("disconnected")
      yield* TestClock.adjust(0)
      yield* nameOf(id)
      yield* nameOf(otherId)
      assert.strictEqual(database.reads, 5)
    }).pipe(Effect.provide([App({}, pubsub), database.layer]))
  })

  it.effect("is told of changes also after what carries them has crashed", () => {
    const database = makeDatabase()
    return Effect.gen(function* () {
      yield* nameOf(id)
      database.name = "after"
      yield* Tree.kill("App/pubsub")
      yield* TestClock.adjust(0)
      yield* changed(id)
      assert.strictEqual(yield* nameOf(id), "after")
    }).pipe(Effect.provide([App(), database.layer]))
  })

  it.effect("does not keep what was read for a cache that has crashed since", () => {
    const database = makeDatabase()
    return Effect.gen(function* () {
      const go = yield* Deferred.make<void>()
      database.hold = Deferred.await(go)
      const reading = yield* Effect.forkChild(nameOf(id), { startImmediately: true })
      yield* Effect.yieldNow
      yield* Tree.kill("App/trail-cache")
      // The new process has handed out a lease of its own before the old reader comes back.
      const again = yield* Effect.forkChild(nameOf(id), { startImmediately: true })
      yield* Effect.yieldNow
      database.name = "after"
      yield* changed(id)
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(reading)
      yield* Fiber.join(again)
      assert.strictEqual(yield* nameOf(id), "after")
    }).pipe(Effect.provide([App(), database.layer]))
  })

  it.effect("answers 50 concurrent reads right, although the cache crashes among them", () => {
    const database = makeDatabase()
    return Effect.gen(function* () {
      const reads = yield* Effect.forEach(Array.from({ length: 50 }), (_, n) =>
        Effect.forkChild(Effect.andThen(Effect.sleep(`${n} millis`), TrailCache.find(owner, ids[n % 10]!)))
      )
      for (let crash = 0; crash < 5; crash++) {
        yield* TestClock.adjust("9 millis")
        yield* Tree.kill("App/trail-cache")
      }
      yield* TestClock.adjust("1 second")
      const found = yield* Effect.forEach(reads, Fiber.join)
      assert.deepStrictEqual(
        found.map(({ id }) => id),
        Array.from({ length: 50 }, (_, n) => ids[n % 10]!)
      )
      assert.strictEqual((yield* Tree.get("App/trail-cache")).restarts, 5)
      assert.isAbove(database.reads, 10)
    }).pipe(Effect.provide([App(), database.layer]))
  })

  it.effect("reads again after the time to live", () => {
    const database = makeDatabase()
    return Effect.gen(function* () {
      yield* nameOf(id)
      yield* TestClock.adjust("4999 millis")
      yield* nameOf(id)
      assert.strictEqual(database.reads, 1)
      yield* TestClock.adjust("1 millis")
      yield* nameOf(id)
      assert.strictEqual(database.reads, 2)
    }).pipe(Effect.provide([App({ timeToLive: "5 seconds" }), database.layer]))
  })

  it.effect("drops what was kept longest when it is full", () => {
    const database = makeDatabase()
    return Effect.gen(function* () {
      const [first, second, third] = [ids[0]!, ids[1]!, ids[2]!]
      for (const id of [first, second, third]) yield* nameOf(id)
      assert.strictEqual(database.reads, 3)
      for (const id of [second, third]) yield* nameOf(id)
      assert.strictEqual(database.reads, 3)
      yield* nameOf(first)
      assert.strictEqual(database.reads, 4)
    }).pipe(Effect.provide([App({ capacity: 2 }), database.layer]))
  })

  it.effect("shows a trail to its owner only, whether it is kept or not", () => {
    const database = makeDatabase()
    const stranger = Effect.flip(TrailCache.find(UserId.make(2), id))
    return Effect.gen(function* () {
      assert.strictEqual((yield* stranger)._tag, "TrailNotFound")
      yield* nameOf(id)
      assert.strictEqual((yield* stranger)._tag, "TrailNotFound")
      assert.strictEqual(database.reads, 1)
    }).pipe(Effect.provide([App(), database.layer]))
  })
})
