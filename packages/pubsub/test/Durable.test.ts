import { Pglite, Postgres } from "@coppice/postgres"
import { DurableTopic, Migrations, PubSub } from "@coppice/pubsub"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Option, References, Schedule, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"

const Placed = Schema.TaggedStruct("Placed", { order: Schema.Int, at: Schema.DateTimeUtcFromString })
const Orders = DurableTopic.make("orders", { event: Schema.Int, retention: "1 hour" })
const Numbers = DurableTopic.make("orders", { event: Schema.Literals([1, 2]) })
const Rooms = DurableTopic.make("rooms", { key: Schema.String, event: Schema.String })

const Virtual = Layer.effectDiscard(Migrations.run).pipe(
  Layer.provideMerge(Layer.merge(Postgres.layerTest, Layer.succeed(DurableTopic.TimeSource, "clock")))
)

/** A node in an empty database. */
const durable = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    yield* sql`truncate pubsub.events, pubsub.positions, pubsub.pruned`
    yield* sql`drop table if exists handled`
    return yield* Effect.provide(
      effect,
      Layer.fresh(DurableTopic.layer({ pollInterval: "1 second", pruneInterval: "1 minute" })).pipe(
        Layer.provideMerge(Layer.fresh(PubSub.layerLocal)),
        Layer.provide(Layer.succeed(DurableTopic.TimeSource, "clock"))
      )
    )
  }).pipe(Effect.scoped, Effect.provideService(References.MinimumLogLevel, "None"))

/** The events of the next so many messages, and what is between them. */
const next = <Event>(topic: DurableTopic.DurableTopic<Event>, from: DurableTopic.From, n: number) =>
  Effect.map(Stream.runCollect(Stream.take(DurableTopic.stream(topic, { from }), n)), (messages) =>
    messages.map((message) => (message._tag === "Event" ? message.event : message._tag))
  )

/** Everything that a stream has from now on. */
const collect = <Event>(topic: DurableTopic.DurableTopic<Event>, from: DurableTopic.From) =>
  Effect.gen(function* () {
    const found: Array<Event | string> = []
    yield* Effect.forkScoped(
      Stream.runForEach(DurableTopic.stream(topic, { from }), (message) =>
        Effect.sync(() => void found.push(message._tag === "Event" ? message.event : message._tag))
      ),
      { startImmediately: true }
    )
    yield* Pglite.settle
    return found
  })

const publish = (...events: ReadonlyArray<number>) => DurableTopic.publishMany(Orders, events)

const consuming = <E, R, E2 = never, R2 = never>(
  handler: (event: DurableTopic.Stored<number>) => Effect.Effect<void, E, R>,
  options?: DurableTopic.ConsumeOptions<E2, R2>
) => Effect.forkScoped(DurableTopic.consume(Orders, "billing", handler, options), { startImmediately: true })

layer(Virtual)("an event", (it) => {
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
        assert.deepStrictEqual([...positions].sort(), positions)
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

layer(Virtual)("a stream", (it) => {
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

layer(Virtual)("retention", (it) => {
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
        yield* publish(1)
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
      })
    )
  )
})

layer(Virtual)("a consumer", (it) => {
  it.effect("handles everything once, in order, and goes on where it was when it starts again", () =>
    durable(
      Effect.gen(function* () {
        const handled: Array<number> = []
        const handler = ({ event }: DurableTopic.Stored<number>) => Effect.sync(() => void handled.push(event))
        yield* publish(1, 2)
        const first = yield* consuming(handler, { batchSize: 1 })
        yield* Pglite.settle
        yield* publish(3)
        yield* Pglite.settle
        assert.deepStrictEqual(handled, [1, 2, 3])
        yield* Fiber.interrupt(first)
        yield* publish(4, 5)
        yield* Pglite.settle
        yield* consuming(handler)
        yield* Pglite.settle
        assert.deepStrictEqual(handled, [1, 2, 3, 4, 5])
      })
    )
  )

  it.effect("that fails tries again later, does what is before the failure, and harms no other", () =>
    durable(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table handled (n int4, at int4)`
        const began = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
        let attempts = 0
        let broken = true
        const record = (event: number) =>
          Effect.flatMap(
            Effect.clockWith((clock) => clock.currentTimeMillis),
            (millis) => Effect.asVoid(sql`insert into handled values (${event}, ${(millis - began) / 1_000})`)
          )
        yield* consuming(({ event }) =>
          Effect.gen(function* () {
            yield* record(event)
            if (event !== 3 || !broken) return
            attempts++
            return yield* attempts % 2 === 0 ? Effect.die("broken") : Effect.fail("broken")
          })
        )
        const others = yield* collect(Orders, "beginning")
        yield* publish(1, 2, 3, 4)
        yield* Pglite.settle
        const rows = sql<{ readonly n: number; readonly at: number }>`select n, at from handled order by n`
        assert.deepStrictEqual(
          (yield* rows).map(({ n }) => n),
          [1, 2]
        )
        assert.deepStrictEqual(others, [1, 2, 3, 4])
        const [state] = yield* DurableTopic.consumers(Orders)
        assert.deepInclude(state?.lag, { unread: 2, held: 0 })
        // Once in the batch, once alone.
        assert.strictEqual(attempts, 2)
        yield* Pglite.advance("1 second")
        assert.strictEqual(attempts, 3)
        yield* Pglite.advance("1999 millis")
        assert.strictEqual(attempts, 3)
        broken = false
        yield* Pglite.advance("1 millis")
        assert.deepStrictEqual(yield* rows, [
          { n: 1, at: 0 },
          { n: 2, at: 0 },
          { n: 3, at: 3 },
          { n: 4, at: 3 }
        ])
      })
    )
  )

  it.effect("stores its position with what its handler writes, or neither", () =>
    durable(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table handled (n int4 primary key deferrable initially deferred)`
        yield* publish(1, 2, 1, 3)
        const error = yield* Effect.flip(
          DurableTopic.consume(
            Orders,
            "billing",
            ({ event }) => Effect.asVoid(sql`insert into handled values (${event})`),
            {
              // What the database refuses is only known at the commit.
              batchSize: 2,
              retry: Schedule.recurs(0)
            }
          )
        )
        assert.strictEqual(error._tag, "SqlError")
        assert.deepStrictEqual(yield* sql`select n from handled order by n`, [{ n: 1 }, { n: 2 }])
        const state = yield* DurableTopic.consumer(Orders, "billing")
        assert.deepInclude(Option.getOrThrow(state).lag, { unread: 2 })
      })
    )
  )

  it.effect("waits at an event that it does not know until it is said what becomes of those", () =>
    durable(
      Effect.gen(function* () {
        yield* publish(1, 3, 2)
        const handled: Array<number> = []
        const handler = ({ event }: DurableTopic.Stored<1 | 2>) => Effect.sync(() => void handled.push(event))
        const running = yield* Effect.forkScoped(DurableTopic.consume(Numbers, "billing", handler))
        yield* Pglite.advance("1 minute")
        // Others of its name, with newer code, could go on.
        assert.deepStrictEqual(handled, [1, 1])
        yield* Fiber.interrupt(running)
        yield* Effect.forkScoped(
          DurableTopic.consume(Numbers, "billing", handler, {
            onUndecodable: ({ json }) => Effect.sync(() => void handled.push(Number(json)))
          })
        )
        yield* Pglite.settle
        assert.deepStrictEqual(handled, [1, 1, 3, 2])
      })
    )
  )

  it.effect("of another name has a position of its own, which can be set, and forgotten", () =>
    durable(
      Effect.gen(function* () {
        const positions = yield* publish(1, 2, 3)
        const handled: Array<string> = []
        const consume = (name: string, from?: DurableTopic.From) =>
          Effect.forkScoped(
            DurableTopic.consume(Orders, name, ({ event }) => Effect.sync(() => void handled.push(`${name}${event}`)), {
              from
            })
          )
        yield* DurableTopic.setPosition(Orders, "a", positions[1] ?? "now")
        yield* consume("a")
        yield* consume("b", "now")
        yield* Pglite.settle
        assert.deepStrictEqual(handled.splice(0), ["a3"])
        yield* publish(4)
        yield* Pglite.settle
        assert.sameMembers(handled.splice(0), ["a4", "b4"])
        yield* DurableTopic.setPosition(Orders, "a", "beginning")
        yield* Pglite.settle
        assert.deepStrictEqual(handled.splice(0), ["a1", "a2", "a3", "a4"])
        yield* DurableTopic.setPosition(Orders, "c", "now")
        assert.deepStrictEqual(
          (yield* DurableTopic.consumers(Orders)).map(({ consumer, lag }) => [consumer, lag.unread]),
          [
            ["a", 0],
            ["b", 0],
            ["c", 0]
          ]
        )
        assert.isTrue(yield* DurableTopic.deleteConsumer(Orders, "c"))
        assert.isFalse(yield* DurableTopic.deleteConsumer(Orders, "c"))
        assert.isTrue(Option.isNone(yield* DurableTopic.consumer(Orders, "c")))
      })
    )
  )

  it.effect("with options that cannot be followed does not start", () =>
    durable(
      Effect.gen(function* () {
        for (const options of [{ batchSize: 0 }, { batchSize: 1.5 }, { lease: 1 }]) {
          const error = yield* Effect.flip(DurableTopic.consume(Orders, "billing", () => Effect.void, options))
          assert.strictEqual(error._tag, "InvalidOption")
        }
      })
    )
  )
})

layer(Virtual)("a database that counts its transactions anew", (it) => {
  it.effect("as after a restore, goes on after the events and positions that were there", () =>
    durable(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const handled: Array<number> = []
        yield* publish(1, 2)
        yield* consuming(({ event }) => Effect.sync(() => void handled.push(event)))
        yield* Pglite.settle
        // As if they came from a server that had counted much further.
        for (const table of ["events", "positions"]) yield* sql.unsafe(`update pubsub.${table} set xid = xid + 1000000`)
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
