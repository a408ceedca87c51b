import { randomBytes } from "node:crypto"
import { Pglite } from "@coppice/postgres"
import { DurableTopic, PubSub } from "@coppice/pubsub"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { zero } from "../src/internal/durable/position.ts"
import * as Store from "../src/internal/durable/store.ts"
import { collect, consuming, durable, next, Numbers, Orders, publish, Rooms, Virtual } from "./fixtures/Durable.ts"

const Placed = Schema.TaggedStruct("Placed", { order: Schema.Int, at: Schema.DateTimeUtcFromString })
layer(Virtual)("on virtual time", (it) => {
  describe("an event", () => {
    it.effect("is there exactly if the transaction that published it has committed", () =>
      durable(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const found = yield* collect(Orders, "beginning")
          yield* Effect.exit(sql.withTransaction(Effect.andThen(publish(1), Effect.fail("no"))))
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* publish(2)
              yield* Effect.exit(sql.withTransaction(Effect.andThen(publish(3), Effect.fail("no"))))
              yield* sql.withTransaction(publish(4))
              yield* Pglite.settle
              assert.deepStrictEqual(found, [])
            })
          )
          yield* Pglite.settle
          assert.deepStrictEqual(found, [2, 4])
          assert.deepStrictEqual(yield* next(Orders, "beginning", 2), [2, 4])
        })
      )
    )

    it.effect("comes out as it went in, also with what a database does not like in texts", () =>
      durable(
        Effect.gen(function* () {
          const Texts = Rooms(`it's "quoted" $1 ; -- :a`)
          const texts = ["", "a\u0000b", "\ud800", "'\"\\", "\u2028é👋", "null", "x".repeat(100_000)]
          yield* DurableTopic.publishMany(Texts, texts)
          assert.deepStrictEqual(yield* next(Texts, "beginning", texts.length), texts)
          const At = DurableTopic.make("at", { event: Placed })
          const event = Placed.make({
            order: 1,
            at: Schema.decodeSync(Schema.DateTimeUtcFromString)("2026-01-02T03:04:05.006Z")
          })
          yield* DurableTopic.publish(At, event)
          assert.deepStrictEqual(yield* next(At, "beginning", 1), [event])
        })
      )
    )

    it.effect("that does not fit its schema is refused, and nothing of its statement is written", () =>
      durable(
        Effect.gen(function* () {
          const error = yield* Effect.flip(publish(1, 1.5, 2))
          assert.strictEqual(error._tag, "InvalidEvent")
          const Big = DurableTopic.make("orders", { event: Schema.Unknown })
          assert.strictEqual((yield* Effect.flip(DurableTopic.publish(Big, 1n)))._tag, "InvalidEvent")
          yield* publish(3)
          assert.deepStrictEqual(yield* next(Orders, "beginning", 1), [3])
          assert.deepStrictEqual(yield* publish(), [])
        })
      )
    )

    it.effect("has a position that compares as a text, and survives JSON", () =>
      durable(
        Effect.gen(function* () {
          const positions = [...(yield* publish(1, 2, 3)), yield* DurableTopic.publish(Orders, 4)]
          assert.deepStrictEqual(positions.toSorted(), positions)
          assert.strictEqual(new Set(positions).size, 4)
          const second = Schema.decodeUnknownSync(DurableTopic.Position)(JSON.parse(JSON.stringify(positions[1])))
          assert.deepStrictEqual(yield* next(Orders, second, 2), [3, 4])
          assert.isTrue(Exit.isFailure(Schema.decodeUnknownExit(DurableTopic.Position)("1-2")))
        })
      )
    )

    it.effect("of one topic is not seen by another, or by another key", () =>
      durable(
        Effect.gen(function* () {
          yield* DurableTopic.publish(Rooms("a"), "in a")
          yield* DurableTopic.publish(Rooms("b"), "in b")
          assert.deepStrictEqual(yield* next(Rooms("b"), "beginning", 1), ["in b"])
          assert.throws(() => Rooms("a\u0000"))
          assert.throws(() => DurableTopic.make("a", { event: Schema.Int, retention: -1 }))
        })
      )
    )
  })

  describe("a stream", () => {
    it.effect("has what is there, more than a page of it, then what comes", () =>
      durable(
        Effect.gen(function* () {
          const many = Array.from({ length: 1_001 }, (_, index) => index)
          yield* publish(...many)
          const found = yield* collect(Orders, "beginning")
          assert.deepStrictEqual(found, many)
          yield* publish(-1)
          yield* Pglite.settle
          assert.deepStrictEqual(found, [...many, -1])
        })
      )
    )

    it.effect("that begins now, or at a position that was read, has what comes after it", () =>
      durable(
        Effect.gen(function* () {
          yield* publish(1, 2)
          const position = yield* DurableTopic.now
          const found = yield* collect(Orders, "now")
          yield* publish(3)
          yield* Pglite.settle
          assert.deepStrictEqual(found, [3])
          assert.deepStrictEqual(yield* next(Orders, position, 1), [3])
        })
      )
    )

    it.effect("reads large events few at a time", () =>
      durable(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const Texts = Rooms("large")
          // Nothing that could be compressed.
          const large = Array.from({ length: 5 }, () => randomBytes(1_500_000).toString("base64"))
          yield* Effect.forEach(large, (text) => DurableTopic.publish(Texts, text))
          const store = Store.make({ schema: `"pubsub"`, sql, time: "clock" })
          assert.lengthOf((yield* store.page("rooms:large", zero, 250)).rows, 3)
          assert.deepStrictEqual(yield* next(Texts, "beginning", 5), large)
        })
      )
    )

    it.effect("finds by polling what nobody told it of", () =>
      durable(
        Effect.gen(function* () {
          const found = yield* collect(Orders, "beginning")
          // As a node that died after its commit, or one that others do not hear.
          yield* Effect.provide(
            publish(1),
            Layer.fresh(DurableTopic.layer()).pipe(Layer.provide(Layer.fresh(PubSub.layerLocal)))
          )
          yield* Pglite.advance("999 millis")
          assert.deepStrictEqual(found, [])
          yield* Pglite.advance("1 millis")
          assert.deepStrictEqual(found, [1])
        })
      )
    )

    it.effect("says which events it does not know, and goes on", () =>
      durable(
        Effect.gen(function* () {
          yield* publish(1, 3, 2)
          assert.deepStrictEqual(yield* next(Numbers, "beginning", 3), [1, "Undecodable", 2])
          const error = yield* Effect.flip(Stream.runDrain(DurableTopic.events(Numbers, { from: "beginning" })))
          assert.strictEqual(error._tag, "UndecodableEvent")
          assert.deepInclude(error, { topic: "orders", json: "3" })
        })
      )
    )
  })

  describe("retention", () => {
    it.effect("removes what is too old, and whoever has not read it is told once", () =>
      durable(
        Effect.gen(function* () {
          const [first] = yield* publish(1, 2)
          yield* Pglite.advance("30 minutes")
          const [third] = yield* publish(3)
          yield* Pglite.advance("31 minutes")
          assert.ok(first !== undefined && third !== undefined)
          // Who begins at the beginning begins with what there is.
          assert.deepStrictEqual(yield* next(Orders, "beginning", 1), [3])
          yield* publish(4)
          assert.deepStrictEqual(yield* next(Orders, first, 3), ["Pruned", 3, 4])
          assert.deepStrictEqual(yield* next(Orders, third, 1), [4])
          const error = yield* Effect.flip(Stream.runDrain(DurableTopic.events(Orders, { from: first })))
          assert.strictEqual(error._tag, "EventsPruned")
        })
      )
    )

    it.effect("of a topic does not touch another, and without an end nothing goes", () =>
      durable(
        Effect.gen(function* () {
          const Kept = DurableTopic.make("kept", { event: Schema.Int, retention: "Infinity" })
          const Short = DurableTopic.make("short", { event: Schema.Int, retention: "10 minutes" })
          yield* DurableTopic.publish(Kept, 1)
          yield* DurableTopic.publish(Short, 1)
          yield* publish(1)
          const sql = yield* SqlClient.SqlClient
          const topics = sql`select topic from pubsub.events order by topic`
          yield* Pglite.advance("9 minutes")
          assert.lengthOf(yield* topics, 3)
          yield* Pglite.advance("2 minutes")
          assert.deepStrictEqual(yield* topics, [{ topic: "kept" }, { topic: "orders" }])
          yield* Pglite.advance("1 hour")
          assert.deepStrictEqual(yield* topics, [{ topic: "kept" }])
        })
      )
    )

    it.effect("that was changed removes what it said of each event, and nothing that is left is skipped", () =>
      durable(
        Effect.gen(function* () {
          const Longer = DurableTopic.make("orders", { event: Schema.Int, retention: "10 hours" })
          const first = yield* DurableTopic.publish(Longer, 0)
          const handled: Array<number | string> = []
          yield* DurableTopic.setPosition(Orders, "billing", first)
          yield* DurableTopic.publish(Longer, 1)
          yield* publish(2)
          yield* DurableTopic.publish(Longer, 3)
          yield* Pglite.advance("61 minutes")
          assert.deepStrictEqual(yield* next(Orders, first, 3), ["Pruned", 1, 3])
          yield* consuming(({ event }) => Effect.sync(() => void handled.push(event)), {
            batchSize: 1,
            onPruned: ({ topic }) => Effect.sync(() => void handled.push(topic))
          })
          yield* Pglite.settle
          assert.deepStrictEqual(handled, ["orders", 1, 3])
        })
      )
    )

    it.effect("removes more than one batch at a time", () =>
      durable(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          yield* publish(...Array.from({ length: 2_500 }, (_, index) => index))
          yield* Pglite.advance("61 minutes")
          assert.deepStrictEqual(yield* sql`select from pubsub.events`, [])
        })
      )
    )

    it.effect("stops a consumer that has missed events, until it is said what becomes of that", () =>
      durable(
        Effect.gen(function* () {
          const handled: Array<number | string> = []
          const handler = ({ event }: DurableTopic.Stored<number>) => Effect.sync(() => void handled.push(event))
          const [first] = yield* publish(1)
          const running = yield* consuming(handler)
          yield* Pglite.settle
          yield* Fiber.interrupt(running)
          yield* publish(2)
          yield* Pglite.advance("61 minutes")
          const failed = yield* Effect.flip(
            DurableTopic.consume(Orders, "billing", handler, { retry: Schedule.recurs(0) })
          )
          assert.strictEqual(failed._tag, "EventsPruned")
          yield* consuming(handler, {
            onPruned: (missed) => Effect.sync(() => void handled.push(missed.topic))
          })
          yield* Pglite.advance("2 seconds")
          assert.deepStrictEqual(handled, [1, "orders"])
          yield* publish(3, 4)
          yield* Pglite.settle
          assert.deepStrictEqual(handled, [1, "orders", 3, 4])
          // Neither does one that begins where events are missing, unlike one that begins at the beginning.
          const begin = (name: string, from: DurableTopic.From) =>
            Effect.forkScoped(
              DurableTopic.consume(Orders, name, handler, {
                from,
                onPruned: () => Effect.sync(() => void handled.push(name))
              })
            )
          yield* begin("late", first ?? "now")
          yield* Pglite.settle
          assert.deepStrictEqual(handled.splice(0), [1, "orders", 3, 4, "late", 3, 4])
          yield* begin("new", "beginning")
          yield* Pglite.settle
          assert.deepStrictEqual(handled, [3, 4])
        })
      )
    )
  })

  describe("a database that counts its transactions anew", () => {
    it.effect("but has come nearly as far, so that it must be known by its name, does so too", () =>
      durable(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const handled: Array<number> = []
          yield* publish(1, 2)
          const running = yield* consuming(({ event }) => Effect.sync(() => void handled.push(event)))
          yield* Pglite.settle
          yield* Fiber.interrupt(running)
          for (const table of ["events", "positions"])
            yield* sql.unsafe(`update pubsub.${table} set xid = xid + 1000000`)
          yield* sql`update pubsub.origin set server = 'another'`
          // Of a node that starts then.
          yield* Effect.gen(function* () {
            yield* consuming(({ event }) => Effect.sync(() => void handled.push(event)))
            yield* publish(3, 4)
            yield* Pglite.settle
          }).pipe(Effect.scoped, Effect.provide(Layer.fresh(DurableTopic.layer())))
          assert.deepStrictEqual(handled, [1, 2, 3, 4])
        })
      )
    )

    it.effect("or has lost where it began, as when all tables are truncated, loses no event", () =>
      durable(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          yield* publish(1)
          yield* sql`truncate pubsub.origin`
          yield* publish(2)
          assert.deepStrictEqual(yield* next(Orders, "beginning", 2), [1, 2])
          yield* sql`truncate pubsub.origin`
          assert.deepStrictEqual(yield* next(Orders, "beginning", 2), [1, 2])
        })
      )
    )

    it.effect("as after a restore, goes on after the events and positions that were there", () =>
      durable(
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const handled: Array<number> = []
          yield* publish(1, 2)
          yield* consuming(({ event }) => Effect.sync(() => void handled.push(event)))
          yield* Pglite.settle
          // As if they came from a server that had counted much further.
          for (const table of ["events", "positions"])
            yield* sql.unsafe(`update pubsub.${table} set xid = xid + 1000000`)
          yield* sql`update pubsub.origin set high = high + 1000000`
          yield* publish(3)
          yield* publish(4)
          yield* Pglite.settle
          assert.deepStrictEqual(handled, [1, 2, 3, 4])
          assert.deepStrictEqual(yield* next(Orders, "beginning", 4), [1, 2, 3, 4])
        })
      )
    )
  })
})
