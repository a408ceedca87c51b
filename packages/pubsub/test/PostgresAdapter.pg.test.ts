import { Postgres } from "@coppice/postgres"
import { Migrations, PubSub } from "@coppice/pubsub"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Random, Redacted, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { eventually, gaps, hasStatus, hear, node, numbers, Numbers, quietly } from "./fixtures/nodes.ts"

const Database = Postgres.layerTestDatabase({
  template: { name: "pubsub", migrate: Migrations.run },
  pool: { maxConnections: 4 }
})

/** The connections of all nodes, by what they are for. */
const backends = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ readonly name: string; readonly n: number }>`
    select application_name as name, count(*)::int4 as n from pg_stat_activity
     where datname = current_database() and application_name like 'coppice pubsub%' group by 1 order by 1`
  return rows.map(({ n, name }) => `${n} ${name.replace("coppice pubsub ", "")}`)
})

/** Nobody has a connection any more. A server needs a moment to end its backends. */
const nobodyConnected = Effect.repeat(backends, { until: ({ length }) => length === 0 })

layer(Database, { excludeTestServices: true })("broadcasts through PostgreSQL", (it) => {
  it.effect("are delivered once to every node, in the order of their sender, and only if the transaction commits", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const nodes = yield* Effect.all([node(server.url()), node(server.url()), node(server.url())])
        const heard = yield* Effect.forEach(nodes, (each) => hear(each))
        const sent: Array<Array<number>> = [[], [], []]
        yield* Effect.forEach(
          nodes,
          ({ broadcast, transact }, index) =>
            Effect.forEach(Array.from({ length: 300 }), (_, count) =>
              Effect.gen(function* () {
                const n = index * 1_000 + count
                const fails = (yield* Random.next) < 0.3
                const work = Effect.gen(function* () {
                  yield* broadcast(n)
                  if (fails) return yield* Effect.fail("no")
                })
                const ended = yield* Effect.exit(transact(work))
                assert.strictEqual(Exit.isSuccess(ended), !fails)
                if (!fails) sent[index]?.push(n)
              })
            ),
          { concurrency: "unbounded" }
        )
        const all = sent.flat().length
        yield* eventually("all have heard all", () => heard.every(({ length }) => length >= all))
        yield* Effect.forEach(nodes, ({ pubsub }) => pubsub.flush)
        for (const messages of heard) {
          assert.deepStrictEqual(gaps(messages), [])
          for (const [index, expected] of sent.entries()) {
            assert.deepStrictEqual(
              numbers(messages).filter((n) => Math.floor(n / 1_000) === index),
              expected
            )
          }
        }
      })
    )
  )

  it.effect("of all sizes and characters arrive as they were, in order, and for one node at that one alone", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const sql = yield* SqlClient.SqlClient
        const [one, two, three] = yield* Effect.all([node(server.url()), node(server.url()), node(server.url())])
        const heard = yield* hear(two)
        const others = yield* hear(three)
        // Around what a notification holds, in characters of one to four bytes; and what a text in PostgreSQL cannot hold.
        const around = Array.from({ length: 40 }, (_, index) => 7_000 + index * 25)
        const bodies = [
          ...["a", "é", "漢", "🌳"].flatMap((character) =>
            around.map((bytes) => character.repeat(Math.floor(bytes / Buffer.byteLength(character))))
          ),
          "\u0000 \\u0000 \uD800 \uDFFF \" ' \n \u2028 {}",
          "🌳".repeat(25_000),
          "é\u0000".repeat(300_000),
          "a".repeat(1_000_000)
        ]
        const events = bodies.flatMap((body) => ["small", body])
        yield* Effect.forEach(events, (body, n) => one.broadcast(n, body))
        yield* one.pubsub.directBroadcast(two.pubsub.node, Numbers("all"), { n: -1, body: "a".repeat(50_000) })
        yield* one.pubsub.directBroadcast(three.pubsub.node, Numbers("all"), { n: -2, body: "b" })
        yield* one.pubsub.directBroadcast("nobody", Numbers("all"), { n: -3, body: "a".repeat(50_000) })
        yield* one.broadcast(events.length)
        yield* eventually("the last has come", () =>
          [heard, others].every((all) => numbers(all).at(-1) === events.length)
        )
        assert.deepStrictEqual(
          heard.map((message) => (message._tag === "Event" ? message.event.body : message._tag)),
          [...events, "a".repeat(50_000), undefined]
        )
        assert.deepStrictEqual(numbers(others).slice(-3), [events.length - 1, -2, events.length])
        assert.deepStrictEqual(gaps(others), [])
        // What fits travels in the notification alone, so the table is not a detour for everything.
        const [stored] = yield* sql<{ readonly n: number }>`select count(*)::int4 as n from pubsub.attachments`
        assert.isAtLeast(stored?.n ?? 0, 4)
        assert.isBelow(stored?.n ?? 0, 4 * 40)
      })
    )
  )

  it.effect("of 500 topics are heard by one connection, and when scopes close nothing is left", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const sql = yield* SqlClient.SqlClient
        yield* nobodyConnected
        const short = { attachmentTtl: "100 millis" } as const
        yield* Effect.scoped(
          Effect.gen(function* () {
            const [one, two] = yield* Effect.all([node(server.url(), short), node(server.url(), short)])
            const keys = Array.from({ length: 500 }, (_, index) => `topic ${index}`)
            const heard = yield* Effect.scoped(
              Effect.gen(function* () {
                const heard = yield* Effect.forEach(keys, (key) => hear(two, key))
                yield* Effect.forEach(keys, (key, n) => one.pubsub.broadcast(Numbers(key), { n }))
                yield* one.pubsub.broadcast(Numbers("topic 0"), { n: 500, body: "a".repeat(10_000) })
                yield* eventually("all topics are heard", () => heard.every((messages) => messages.length > 0))
                yield* eventually("the large one is heard", () => heard[0]?.length === 2)
                return heard
              })
            )
            assert.deepStrictEqual(
              heard.map((messages) => numbers(messages)),
              keys.map((_, n) => (n === 0 ? [0, 500] : [n]))
            )
            for (const key of keys) assert.strictEqual(yield* two.pubsub.subscriberCount(Numbers(key)), 0)
            assert.deepStrictEqual(yield* backends, ["2 listener", "2 sender"])
            yield* Effect.repeat(sql`select 1 from pubsub.attachments`, { until: ({ length }) => length === 0 })
          })
        )
        yield* nobodyConnected
      })
    )
  )

  it.effect("never outrun the rows that they tell of", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table told (n int primary key)`
        const [one, two] = yield* Effect.all([node(server.url()), node(server.url())])
        const rounds = 400
        const seen: Array<boolean> = []
        const { events } = yield* two.pubsub.subscribe(Numbers("all"))
        yield* Effect.forEach(
          Array.from({ length: rounds }),
          (_, n) =>
            one.transact(
              Effect.andThen(
                // A large one takes another way.
                one.broadcast(n, n % 10 === 0 ? "a".repeat(9_000) : "a"),
                one.sql`insert into told (n) values (${n})`
              )
            ),
          { concurrency: 2, discard: true }
        ).pipe(Effect.forkScoped)
        yield* Stream.runForEach(Stream.take(events, rounds), ({ n }) =>
          Effect.map(two.sql`select 1 from told where n = ${n}`, ({ length }) => void seen.push(length === 1))
        )
        assert.deepStrictEqual(
          seen,
          Array.from({ length: rounds }, () => true)
        )
      })
    )
  )

  it.effect("that come in crowds do not overflow a subscriber that takes them one by one", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const [one, two] = yield* Effect.all([node(server.url()), node(server.url())])
        const heard = yield* hear(two, "all", 1_024)
        const count = 20_000
        yield* Effect.forEach(Array.from({ length: count }), (_, n) => one.broadcast(n), { discard: true })
        yield* eventually("the last has come", () => numbers(heard).at(-1) === count - 1)
        assert.deepStrictEqual(
          heard.filter(({ _tag }) => _tag !== "Event"),
          []
        )
        assert.lengthOf(heard, count)
      })
    )
  )

  it.effect("are not disturbed by what others write to the channel", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const sql = yield* SqlClient.SqlClient
        const [one, two] = yield* Effect.all([node(server.url()), node(server.url())])
        const heard = yield* hear(two)
        const write = (text: string) => sql`select pg_notify('coppice_pubsub_pubsub', ${text})`
        yield* one.broadcast(0)
        for (const garbage of [
          "",
          "hello",
          "null",
          "[]",
          "{}",
          '{"kind":"messages"',
          '{"kind":"messages","from":"x","seq":1}',
          '{"kind":"messages","from":"x","seq":"1","messages":[]}',
          '{"kind":"messages","from":1,"seq":1,"messages":[]}',
          '{"kind":"messages","from":"x","seq":1,"messages":[null,{"topic":7}]}',
          '{"kind":"attached","from":"x"',
          '{"kind":"attached","from":"x"}',
          '{"kind":"attached","from":"x","seq":-1}',
          '{"kind":"attached","from":"x","seq":1e99}',
          '{"kind":"attached","from":"x","seq":1,"to":7}',
          '{"kind":"__proto__","from":"x","seq":1}'
        ]) {
          yield* write(garbage)
        }
        yield* one.broadcast(1)
        yield* eventually("the next is heard", () => numbers(heard).length === 2)
        assert.deepStrictEqual(
          heard.map(({ _tag }) => _tag),
          ["Event", "Event"]
        )
        // Of a node that is known, what was stored and cannot be found any more is missing.
        yield* write('{"kind":"hello","from":"x","seq":0}')
        yield* write('{"kind":"attached","from":"x","seq":1}')
        yield* eventually("the gap is told", () => gaps(heard).length > 0)
        // What the database refuses to look for is not there either.
        yield* write('{"kind":"hello","from":"\\u0000","seq":0}')
        yield* write('{"kind":"attached","from":"\\u0000","seq":1}')
        yield* eventually("the gap is told", () => gaps(heard).length > 1)
        yield* one.broadcast(2)
        yield* eventually("it goes on", () => numbers(heard).length === 3)
        assert.deepStrictEqual(gaps(heard), ["missed", "missed"])
      })
    )
  )

  it.effect("reach nodes with the same channel in the same schema only, and a node says who it sees", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const one = yield* node(server.url())
        assert.strictEqual(yield* one.pubsub.status, "solitary")
        const elsewhere = yield* node(server.url(), { channel: 'an other "channel"' })
        const schema = yield* node(server.url()).pipe(Effect.provideService(Migrations.SchemaName, "other"))
        const heard = yield* hear(elsewhere)
        const two = yield* node(server.url())
        yield* Effect.all([hasStatus(one, "clustered"), hasStatus(two, "clustered")])
        yield* one.broadcast(1)
        yield* one.pubsub.flush
        assert.strictEqual(yield* elsewhere.pubsub.status, "solitary")
        assert.strictEqual(yield* schema.pubsub.status, "solitary")
        // It says goodbye.
        yield* two.stop
        yield* Effect.timeout(hasStatus(one, "solitary"), "2 seconds")
        assert.deepStrictEqual(heard, [])
      })
    )
  )

  it.effect("keep their characters in a database whose encoding does not have them", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const sql = yield* SqlClient.SqlClient
        const name = `${new URL(Redacted.value(server.url())).pathname.slice(1)}_latin1`
        yield* Effect.acquireRelease(
          sql.unsafe(`create database "${name}" template template0 encoding 'LATIN1' locale 'C'`),
          () => Effect.orDie(sql.unsafe(`drop database "${name}" with (force)`))
        )
        yield* Effect.scoped(
          Effect.gen(function* () {
            const [one, two] = yield* Effect.all([node(server.url(name)), node(server.url(name))])
            const heard = yield* hear(two)
            const bodies = ["é", "漢🌳\uD800\u0000", "🌳".repeat(3_000)]
            yield* Effect.forEach(bodies, (body, n) => one.broadcast(n, body))
            yield* eventually("all are heard", () => heard.length === bodies.length)
            assert.deepStrictEqual(
              heard.map((message) => (message._tag === "Event" ? message.event.body : message._tag)),
              bodies
            )
          })
        )
      })
    )
  )

  it.effect("leave whatever the application's connections are doing, and before a flush ends", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const [one, two] = yield* Effect.all([node(server.url()), node(server.url())])
        const heard = yield* hear(two)
        // Both of the pool's are in use.
        const hold = one.transact(Effect.andThen(one.sql`select 1`, Effect.never))
        yield* Effect.forkScoped(Effect.all([hold, hold], { concurrency: 2 }))
        yield* Effect.sleep("50 millis")
        yield* one.broadcast(1, "a".repeat(20_000))
        yield* one.pubsub.flush
        yield* eventually("it is heard", () => numbers(heard).length === 1)
        // With an event that is larger than anything may be, it ends as well; and the others learn of it.
        yield* one.broadcast(2, "a".repeat(16 * 1024 * 1024))
        yield* one.broadcast(3)
        yield* one.pubsub.flush
        yield* eventually("the last is heard", () => numbers(heard).length === 2)
        assert.deepStrictEqual(
          heard.map(({ _tag }) => _tag),
          ["Event", "Gap", "Event"]
        )
      })
    )
  )

  it.effect("that cannot be sent fail where they are made, and are sent to nobody", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const one = yield* node(server.url())
        const heard = yield* hear(one)
        const error = yield* Effect.flip(one.pubsub.broadcast(Numbers("all"), { n: 0.5 }))
        assert.instanceOf(error, PubSub.InvalidEvent)
        yield* one.broadcast(1)
        yield* eventually("the next is heard", () => heard.length > 0)
        assert.deepStrictEqual(numbers(heard), [1])
      })
    )
  )
})
