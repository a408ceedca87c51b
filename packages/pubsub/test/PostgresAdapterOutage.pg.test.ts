import { Postgres } from "@coppice/postgres"
import { Migrations, PostgresAdapter, PubSub } from "@coppice/pubsub"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted, Stream } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"
import {
  assertNoSilentLoss,
  eventually,
  gaps,
  hasStatus,
  hear,
  type Node,
  node,
  numbers,
  Numbers,
  quietly
} from "./fixtures/nodes.ts"
import { proxy } from "./fixtures/proxy.ts"

const Database = Postgres.layerTestDatabase({
  template: { name: "pubsub", migrate: Migrations.run },
  pool: { maxConnections: 2 }
})

const often = { heartbeat: "400 millis" } as const

const terminate = (name: "listener" | "sender") =>
  SqlClient.SqlClient.use(
    (sql) => sql`
      select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and application_name = ${`coppice pubsub ${name}`}`
  )

/** Broadcasts numbers from 0, at this pace, in the background. */
const counting = (node: Node, count: number, millis: number) =>
  Effect.forkScoped(
    Effect.forEach(
      Array.from({ length: count }),
      (_, n) => Effect.andThen(node.broadcast(n, n % 50 === 0 ? "a".repeat(20_000) : "a"), Effect.sleep(millis)),
      { discard: true }
    )
  )

/** Two nodes, of which the second goes by a way that can be disturbed, and what it hears. */
const pair = Effect.fnUntraced(function* (options: PostgresAdapter.Options = {}) {
  const server = yield* Postgres.Server
  const way = yield* proxy(server.url())
  const one = yield* node(server.url(), often)
  const two = yield* node(way.url, { ...often, ...options })
  yield* Effect.all([hasStatus(one, "clustered"), hasStatus(two, "clustered")])
  return { one, two, way }
})

layer(Database, { excludeTestServices: true })("when the database or the way to it fails", (it) => {
  it.effect("and connections are ended in the middle of a stream, nothing is heard twice, and no loss is silent", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const [one, two, three] = yield* Effect.all([
          node(server.url(), often),
          node(server.url(), often),
          node(server.url(), often)
        ])
        const heard = yield* Effect.forEach([two, three], (each) => hear(each))
        const count = 1_500
        const stream = yield* counting(one, count, 1)
        for (let round = 0; round < 8; round++) {
          yield* Effect.sleep("150 millis")
          yield* terminate(round % 2 === 0 ? "sender" : "listener")
        }
        yield* Fiber.join(stream)
        yield* one.pubsub.flush
        yield* Effect.forEach([two, three], (each) => hasStatus(each, "clustered"))
        yield* one.broadcast(count)
        yield* eventually("the last is heard", () => heard.every((all) => numbers(all).at(-1) === count))
        for (const all of heard) {
          assertNoSilentLoss(all, count + 1)
          assert.isAtLeast(gaps(all).filter((reason) => reason === "disconnected").length, 4)
          // Most of it was heard, and the senders' misfortune alone has cost nothing.
          assert.isAbove(numbers(all).length, count / 4)
        }
      })
    )
  )

  it.effect("and only senders lose their connections, every event is heard, once", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const [one, two] = yield* Effect.all([node(server.url(), often), node(server.url(), often)])
        const heard = yield* hear(two)
        const count = 600
        const stream = yield* counting(one, count, 1)
        let ended = 0
        while (stream.pollUnsafe() === undefined) {
          yield* Effect.sleep("50 millis")
          ended += (yield* terminate("sender")).length
        }
        assert.isAbove(ended, 4)
        yield* Fiber.join(stream)
        yield* one.pubsub.flush
        yield* eventually("all are heard", () => heard.length >= count)
        assert.deepStrictEqual(
          numbers(heard),
          Array.from({ length: count }, (_, n) => n)
        )
        assert.deepStrictEqual(gaps(heard), [])
      })
    )
  )

  it.effect("and the answer to what was sent does not come, it is sent again, and heard once", () =>
    quietly(
      Effect.gen(function* () {
        const { one, two, way } = yield* pair()
        const heard = yield* hear(one)
        yield* two.broadcast(0)
        yield* eventually("the first is heard", () => heard.length === 1)
        way.set("mute")
        yield* Effect.forEach([1, 2, 3], (n) => two.broadcast(n, n === 2 ? "a".repeat(10_000) : "a"))
        yield* eventually("they are heard, although the sender does not know", () => numbers(heard).length >= 2)
        way.set("open")
        yield* two.broadcast(4)
        yield* two.pubsub.flush
        yield* eventually("the last is heard", () => numbers(heard).at(-1) === 4)
        assert.deepStrictEqual(numbers(heard), [0, 1, 2, 3, 4])
        assert.deepStrictEqual(gaps(heard), [])
      })
    )
  )

  it.effect("and a connection is dead without an end, that is found out, and the gap is told", () =>
    quietly(
      Effect.gen(function* () {
        const { one, two, way } = yield* pair()
        const heard = yield* hear(two)
        const since = performance.now()
        way.set("silent")
        yield* hasStatus(two, "disconnected")
        // A heartbeat, half of one to answer, and what a busy machine takes.
        assert.isBelow(performance.now() - since, 600 + 4_000)
        yield* one.broadcast(0)
        yield* one.pubsub.flush
        // Who says nothing is not counted any more.
        yield* hasStatus(one, "solitary")
        way.set("open")
        yield* Effect.all([hasStatus(one, "clustered"), hasStatus(two, "clustered")])
        yield* one.broadcast(1)
        yield* eventually("the next is heard", () => numbers(heard).length === 1)
        assertNoSilentLoss(heard, 2)
        assert.include(gaps(heard), "disconnected")
      })
    )
  )

  it.effect("and both connections of a node are dead, what it broadcasts meanwhile is heard all the same", () =>
    quietly(
      Effect.gen(function* () {
        const { one, two, way } = yield* pair()
        const heard = yield* hear(one)
        const back = yield* hear(two)
        yield* two.broadcast(0, "a".repeat(10_000))
        yield* two.pubsub.flush
        way.freeze()
        yield* Effect.forEach([1, 2, 3], (n) => two.broadcast(n, "a".repeat(n * 5_000)))
        yield* two.pubsub.flush
        yield* eventually("all are heard", () => numbers(heard).length === 4)
        assert.deepStrictEqual(numbers(heard), [0, 1, 2, 3])
        assert.deepStrictEqual(gaps(heard), [])
        yield* eventually("it listens again", () => gaps(back).includes("disconnected"))
        yield* one.broadcast(0)
        yield* eventually("it hears again", () => numbers(back).length === 5)
      })
    )
  )

  it.effect("and a connection dies under the removal of old attachments, they are removed by the next", () =>
    quietly(
      Effect.gen(function* () {
        const { one, two, way } = yield* pair({ attachmentTtl: "100 millis" })
        const heard = yield* hear(one)
        const attachments = SqlClient.SqlClient.use((sql) => sql`select from pubsub.attachments`)
        for (let n = 0; n < 3; n++) {
          way.freeze()
          yield* two.broadcast(n, "a".repeat(10_000))
          yield* two.pubsub.flush
        }
        yield* eventually("all are heard", () => numbers(heard).length === 3)
        yield* attachments.pipe(
          Effect.delay("20 millis"),
          Effect.repeat({ until: (rows) => rows.length === 0 }),
          Effect.timeoutOrElse({ duration: "10 seconds", orElse: () => Effect.die(new Error("never removed")) })
        )
      })
    )
  )

  it.effect("and a session does not listen any more, that is found out", () =>
    quietly(
      Effect.gen(function* () {
        const { one, two, way } = yield* pair()
        const heard = yield* hear(two)
        way.unlisten()
        yield* hasStatus(two, "disconnected")
        yield* hasStatus(two, "clustered")
        yield* one.broadcast(0)
        yield* eventually("it hears again", () => numbers(heard).length === 1)
        assert.include(gaps(heard), "disconnected")
      })
    )
  )

  it.effect("and too much waits to be sent, the oldest is given up, and the others are told", () =>
    quietly(
      Effect.gen(function* () {
        const { one, two, way } = yield* pair({ maxWaiting: 10 })
        const heard = yield* hear(one)
        yield* two.broadcast(0)
        yield* two.pubsub.flush
        way.set("closed")
        yield* hasStatus(two, "disconnected")
        for (let n = 1; n <= 1_000; n++) yield* two.broadcast(n)
        const flushed = yield* Effect.forkScoped(two.pubsub.flush)
        // Time enough for a flush that does not wait.
        yield* Effect.sleep("50 millis")
        assert.isUndefined(flushed.pollUnsafe())
        way.set("open")
        yield* Fiber.join(flushed)
        yield* eventually("the last is heard", () => numbers(heard).at(-1) === 1_000)
        assertNoSilentLoss(heard, 1_001)
        assert.deepStrictEqual(numbers(heard).slice(-10), [991, 992, 993, 994, 995, 996, 997, 998, 999, 1_000])
        assert.isBelow(numbers(heard).length, 30)
        assert.deepStrictEqual([...new Set(gaps(heard))], ["missed"])
      })
    )
  )

  it.effect("a node ends all the same, and at once", () =>
    quietly(
      Effect.gen(function* () {
        const ends = Effect.fnUntraced(function* (mode: "silent" | "closed") {
          const { two, way } = yield* pair()
          way.set(mode)
          yield* two.broadcast(0)
          const since = performance.now()
          yield* two.stop
          // What has not left by then is given up.
          yield* two.pubsub.flush
          assert.isBelow(performance.now() - since, 2_000 + 3_000)
        })
        yield* Effect.all([ends("silent"), ends("closed")], { concurrency: 2 })
      })
    )
  )

  it.effect("or delivering is a defect, that is a crash of the layer, and its supervisor begins it anew", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const broken = PostgresAdapter.make(often)("broken", {
          deliver: () => {
            throw new Error("broken")
          },
          gap: () => undefined,
          status: () => undefined
        })
        const app = Supervisor.layer("App", {
          strategy: "one_for_one",
          maxRestarts: 5,
          children: [Child.layer("adapter", Layer.effectDiscard(broken))]
        })
        const one = yield* node(server.url(), often)
        yield* Effect.gen(function* () {
          yield* one.broadcast(0)
          yield* Effect.repeat(Tree.get("App/adapter"), { until: ({ restarts }) => restarts === 1 })
        }).pipe(Effect.provide(app))
      })
    )
  )

  it.effect("a database that comes back at another address is found there", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const way = yield* proxy(server.url())
        let url = way.url
        const app = Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [
            Child.layer(
              "database",
              Layer.unwrap(Effect.sync(() => PgClient.layerFrom(PgClient.make({ url, maxConnections: 2 })))).pipe(
                Layer.provide(Reactivity.layer)
              )
            ),
            Child.layer("pubsub", PubSub.layerPostgres(often))
          ]
        })
        const one = yield* node(server.url(), often)
        const heard = yield* hear(one)
        yield* Effect.gen(function* () {
          url = server.url()
          way.set("closed")
          yield* Tree.kill("App/database")
          yield* Effect.repeat(Tree.get("App/database"), { until: ({ restarts }) => restarts === 1 })
          const { events } = yield* PubSub.subscribe(Numbers("all"))
          yield* PubSub.broadcast(Numbers("all"), { n: 1 })
          yield* eventually("it is heard", () => numbers(heard).includes(1))
          // It listens there a moment sooner or later than it speaks.
          yield* Effect.raceFirst(
            Effect.forever(Effect.andThen(one.broadcast(2), Effect.sleep("50 millis"))),
            Stream.runHead(Stream.filter(events, ({ n }) => n === 2))
          )
          assert.strictEqual((yield* Tree.get("App/pubsub")).restarts, 0)
        }).pipe(Effect.scoped, Effect.provide(app))
      })
    )
  )

  it.effect("a node does not start, and says what to do", () =>
    quietly(
      Effect.gen(function* () {
        const server = yield* Postgres.Server
        const way = yield* proxy(server.url())
        way.deaf(true)
        const refused = (options: PostgresAdapter.Options, problem: RegExp, url = server.url()) =>
          Effect.gen(function* () {
            const error = yield* Effect.flip(node(url, options))
            assert.instanceOf(error, PostgresAdapter.ListenUnavailable)
            assert.match(error.problem, problem)
            assert.include(error.message, "`listenUrl` that bypasses the connection pooler")
          })
        yield* Effect.all(
          [
            // A pooler that forgets LISTEN; with a way around it, it is of no importance.
            refused({}, /what it told itself did not arrive within 5 seconds/, way.url),
            Effect.asVoid(node(way.url, { listenUrl: server.url() })),
            refused({ listenUrl: Redacted.make("postgres://nobody@127.0.0.1:1/nothing") }, /ECONNREFUSED/),
            refused({ listenUrl: Redacted.make("nonsense") }, /listenUrl is not a URL/),
            refused({ listenUrl: server.url("postgres") }, /the tables are not there/),
            refused({ channel: "a".repeat(64) }, /channel names must not/),
            refused({ channel: "" }, /zero-length/)
          ],
          { concurrency: "unbounded" }
        )
      })
    )
  )
})
