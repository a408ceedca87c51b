import { DurableTopic, PubSub } from "@coppice/pubsub"
import { Postgres, Sandbox } from "@coppice/postgres"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Option, Random, Schedule, Stream } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"
import { zero } from "../src/internal/durable/position.ts"
import * as Store from "../src/internal/durable/store.ts"
import {
  collect,
  Database,
  eventually,
  Orders,
  outside,
  quietly,
  type Seen,
  setUp,
  startNode
} from "./fixtures/DurableNodes.ts"

layer(Database, { excludeTestServices: true })("under concurrent commits", (it) => {
  it.effect("every reader sees every event once, in one order that a replay repeats", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode()
        const live = yield* collect(durable, "beginning")
        const committed = new Set<string>()
        const pause = Effect.flatMap(Random.nextIntBetween(0, 4), (millis) =>
          millis === 0 ? Effect.void : Effect.sleep(millis)
        )
        const transaction = (name: string) =>
          Effect.gen(function* () {
            // Some have their number long before they publish.
            if ((yield* Random.next) < 0.5) yield* sql`select pg_current_xact_id()::text`
            yield* pause
            yield* durable.publish(Orders, `${name}.0`)
            yield* pause
            yield* Effect.ignore(
              sql.withTransaction(Effect.andThen(durable.publish(Orders, `${name}.undone`), Effect.fail("no")))
            )
            yield* sql.withTransaction(durable.publishMany(Orders, [`${name}.1`, `${name}.2`]))
            yield* pause
            if ((yield* Random.next) < 0.2) return yield* Effect.fail("no")
          }).pipe(
            sql.withTransaction,
            Effect.tap(() => Effect.sync(() => [0, 1, 2].forEach((n) => committed.add(`${name}.${n}`)))),
            Effect.ignore
          )
        const writers = yield* Effect.forkChild(
          Effect.forEach(
            [0, 1, 2, 3, 4, 5],
            (worker) => Effect.forEach(Array.from({ length: 12 }), (_, round) => transaction(`${worker}/${round}`)),
            { concurrency: "unbounded" }
          )
        )
        // One who comes back again and again with the position that it had.
        const returning: Array<Seen> = []
        let from: DurableTopic.From = "beginning"
        const visit = Effect.gen(function* () {
          const some = yield* Stream.runCollect(
            Stream.take(DurableTopic.events(Orders, { from }), 1 + (returning.length % 5))
          )
          for (const { event, position } of some) {
            returning.push({ event, position })
            from = position
          }
        }).pipe(Effect.provideService(DurableTopic.DurableTopics, durable))
        while (writers.pollUnsafe() === undefined || returning.length < committed.size) {
          yield* Effect.timeoutOption(visit, "2 seconds")
          if (writers.pollUnsafe() !== undefined && returning.length + 5 > committed.size) break
        }
        yield* Fiber.join(writers)
        yield* eventually(
          "all are seen",
          Effect.sync(() => live.length),
          (n) => n >= committed.size
        )
        const replay = yield* collect(durable, "beginning")
        yield* eventually(
          "all are seen again",
          Effect.sync(() => replay.length),
          (n) => n >= committed.size
        )
        assert.isAbove(committed.size, 100)
        assert.deepStrictEqual(new Set(live.map(({ event }) => event)), committed)
        assert.lengthOf(live, committed.size)
        assert.deepStrictEqual(live, replay)
        assert.deepStrictEqual(returning, live.slice(0, returning.length))
        assert.isAbove(returning.length, live.length - 10)
        assert.deepStrictEqual(
          live.toSorted((a, b) => (a.position < b.position ? -1 : 1)),
          live
        )
        // The events of a transaction follow each other in their order.
        for (let index = 0; index < live.length; index += 3) {
          const [name] = live[index]?.event.split(".") ?? []
          assert.deepStrictEqual(
            live.slice(index, index + 3).map(({ event }) => event),
            [`${name}.0`, `${name}.1`, `${name}.2`]
          )
        }
      })
    )
  )

  it.effect("a transaction that stays open holds back what came after it, and comes before it", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode()
        const seen = yield* collect(durable, "beginning")
        yield* durable.setPosition(Orders, "billing", "beginning")
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* durable.publish(Orders, "first")
            // Of another connection, and committed.
            yield* Fiber.join(yield* Effect.forkDetach(outside(sql, durable.publish(Orders, "second"))))
            yield* Effect.sleep("100 millis")
            assert.deepStrictEqual(seen, [])
            const state = yield* outside(sql, durable.consumer(Orders, "billing"))
            assert.deepInclude(Option.getOrThrow(state).lag, { unread: 1, held: 1 })
          })
        )
        yield* eventually(
          "both are seen",
          Effect.sync(() => seen.length),
          (n) => n === 2
        )
        assert.deepStrictEqual(
          seen.map(({ event }) => event),
          ["first", "second"]
        )
      })
    )
  )

  it.effect("readers are woken when a transaction commits, and not before", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode("1 minute")
        const seen = yield* collect(durable, "beginning")
        yield* sql.withTransaction(Effect.andThen(durable.publish(Orders, "first"), Effect.sleep("50 millis")))
        yield* eventually(
          "it is seen",
          Effect.sync(() => seen.length),
          (n) => n === 1
        )
      })
    )
  )

  it.effect("readers on other nodes are woken too, where the nodes are connected", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const one = yield* startNode("1 minute", PubSub.layerPostgres())
        const two = yield* startNode("1 minute", PubSub.layerPostgres())
        yield* one.durable.publish(Orders, "before")
        const seen = yield* collect(two.durable, "beginning")
        const sees = (n: number) =>
          eventually(
            `${n} are seen`,
            Effect.sync(() => seen.length),
            (length) => length === n
          )
        yield* sees(1)
        yield* one.sql.withTransaction(
          Effect.forEach(["a", "b", "c"], (event) => one.durable.publish(Orders, event), { discard: true })
        )
        yield* sees(4)
      })
    )
  )

  it.effect("what another transaction has held back is seen soon after that has ended", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode("1 minute")
        const seen = yield* collect(durable, "beginning")
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`select pg_current_xact_id()::text`
            yield* outside(sql, durable.publish(Orders, "first"))
            yield* Effect.sleep("100 millis")
            assert.deepStrictEqual(seen, [])
          })
        )
        yield* eventually(
          "it is seen",
          Effect.sync(() => seen.length),
          (n) => n === 1
        )
      })
    )
  )

  it.effect("a transaction that only reads, and a consumer that only waits, hold back nobody", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode()
        const waiting = yield* Deferred.make<void>()
        yield* Effect.forkScoped(
          durable.consume(Orders, "slow", () => Effect.andThen(Deferred.succeed(waiting, undefined), Effect.never))
        )
        yield* durable.publish(Orders, "first")
        yield* Deferred.await(waiting)
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`select 1`
            const seen = yield* collect(durable, "beginning")
            yield* outside(sql, durable.publish(Orders, "second"))
            yield* eventually(
              "both are seen",
              Effect.sync(() => seen.length),
              (n) => n === 2
            )
          })
        )
      })
    )
  )
})

layer(Database, { excludeTestServices: true })("a database that is a child, and crashes while it is read", (it) => {
  it.effect("ends neither streams nor consumers", () =>
    quietly(
      Effect.gen(function* () {
        const sql = yield* setUp
        const { url } = yield* Postgres.Server
        const database = PgClient.layerFrom(PgClient.make({ url: url(), maxConnections: 8 }))
        const app = Supervisor.layer("shop", {
          strategy: "one_for_one",
          children: [
            Child.layer("database", database.pipe(Layer.provide(Reactivity.layer))),
            Child.layer("pubsub", Layer.fresh(PubSub.layerLocal)),
            Child.layer("durable", Layer.fresh(DurableTopic.layer({ pollInterval: "10 millis", migrate: false })))
          ]
        })
        yield* Effect.gen(function* () {
          const durable = yield* DurableTopic.DurableTopics
          const handled: Array<string> = []
          const seen = yield* collect(durable, "beginning")
          yield* Effect.forkScoped(
            durable.consume(Orders, "billing", ({ event }) => Effect.sync(() => void handled.push(event)), {
              retry: Schedule.spaced("10 millis")
            })
          )
          const all = (events: ReadonlyArray<string>) =>
            eventually(
              `${events} are seen and handled`,
              Effect.sync(() => [seen.map(({ event }) => event).join(), handled.join()]),
              (texts) => texts.every((text) => text === events.join())
            )
          yield* durable.publish(Orders, "before")
          yield* all(["before"])
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`lock table pubsub.events in access exclusive mode`
              yield* eventually(
                "both wait for the table",
                sql`select from pg_locks where not granted and relation = 'pubsub.events'::regclass`,
                (locks) => locks.length >= 2
              )
              yield* Tree.kill("shop/database")
            })
          )
          yield* durable.publish(Orders, "after")
          yield* all(["before", "after"])
        }).pipe(Effect.scoped, Effect.provide(app))
      })
    )
  )
})

layer(Database, { excludeTestServices: true })("a plan that was made while there were no events", (it) => {
  it.effect("still goes by the indexes when there are many", () =>
    quietly(
      Effect.gen(function* () {
        const admin = yield* setUp
        const { sql } = yield* startNode("20 millis", PubSub.layerLocal, {
          plan_cache_mode: "force_generic_plan"
        })
        // One connection has prepared them all.
        const plans = yield* sql.withTransaction(
          Effect.gen(function* () {
            const store = Store.make({ schema: `"pubsub"`, sql, time: "database" })
            yield* store.page("orders", zero, 250)
            yield* store.consumerPage("orders", "billing", 100)
            yield* store.prune(1_000)
            yield* admin`insert into pubsub.events (topic, xid, event, inserted_at, expires_at)
              select 'orders', n / 1000, '{}', now(), now() + interval '1 day' from generate_series(1, 20000) n`
            const prepared = yield* sql<{ readonly name: string; readonly parameters: number }>`
              select name, cardinality(parameter_types)::int4 as parameters from pg_prepared_statements
               where statement like '%pubsub"%' and cardinality(parameter_types) > 0 and statement not like '%pg_prepared_statements%'`
            return yield* Effect.forEach(prepared, ({ name, parameters }) =>
              Effect.map(
                sql.unsafe<{ readonly "QUERY PLAN": string }>(
                  `explain execute "${name}" (${Array.from({ length: parameters }, () => "null").join(", ")})`
                ),
                (rows) => rows.map((row) => row["QUERY PLAN"]).join("\n")
              )
            )
          })
        )
        assert.lengthOf(plans, 3)
        for (const plan of plans) {
          assert.match(plan, /Index Scan using events_/)
          assert.notMatch(plan, /Seq Scan on events/)
        }
        assert.isTrue(plans.some((plan) => plan.includes("Tid Scan on events")))
      })
    )
  )
})

layer(Database, { excludeTestServices: true })("in a sandbox, where nothing is ever committed", (it) => {
  it.effect("what a test has published is read and consumed, and gone afterwards", () =>
    quietly(
      Effect.gen(function* () {
        const outer = yield* setUp
        const handled: Array<string> = []
        yield* Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const durable = yield* DurableTopic.DurableTopics
          const seen = yield* collect(durable, "beginning")
          yield* Effect.forkScoped(
            durable.consume(Orders, "billing", ({ event }) => Effect.sync(() => void handled.push(event)))
          )
          yield* sql.withTransaction(durable.publishMany(Orders, ["a", "b"]))
          yield* Effect.exit(sql.withTransaction(Effect.andThen(durable.publish(Orders, "c"), Effect.fail("no"))))
          yield* durable.publish(Orders, "d")
          yield* eventually(
            "all are seen and handled",
            Effect.sync(() => seen.length + handled.length),
            (n) => n === 6
          )
          assert.deepStrictEqual(
            seen.map(({ event }) => event),
            ["a", "b", "d"]
          )
          // The lease of the consumer is not that of the test.
          assert.deepStrictEqual(yield* sql`select current_setting('idle_in_transaction_session_timeout') as timeout`, [
            { timeout: "0" }
          ])
        }).pipe(
          Effect.scoped,
          Effect.provide(
            Layer.fresh(DurableTopic.layer({ pollInterval: "20 millis" })).pipe(
              Layer.provide(Layer.fresh(PubSub.layerLocal)),
              Layer.provideMerge(Sandbox.layer)
            )
          )
        )
        assert.deepStrictEqual(handled, ["a", "b", "d"])
        assert.deepStrictEqual(yield* outer`select from pubsub.events`, [])
      })
    )
  )
})
