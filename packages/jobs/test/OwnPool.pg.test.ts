import { assert, layer } from "@effect/vitest"
import { Jobs, Migrations, Worker } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { PgClient } from "@effect/sql-pg"
import { Context, Duration, Effect, Layer, References, Schema } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"
import { inserted, record } from "./fixtures/engine.ts"
import { eventually, liveNode, now, type Run } from "./fixtures/liveNode.ts"
import { clear } from "./fixtures/races.ts"

const Database = Jobs.layerClient.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 4 } })
  )
)

/** How many connections the application has, and how long a node may be silent. */
const connections = 2
const ttl = 2_000

/** Holds a connection of the application, once it has got one. */
class Hog extends Worker.Service<Hog>()("Hog", { queue: "hogs", args: { millis: Schema.Finite } }) {}
class Quick extends Worker.Service<Quick>()("Quick", { queue: "quick", args: {} }) {}

layer(Database, { excludeTestServices: true })("handlers that hold all connections of the application", (it) => {
  it.effect("keep nobody from claiming, settling, and saying that the node lives", () =>
    Effect.gen(function* () {
      const sql = yield* clear
      const jobs = yield* Jobs.Jobs
      const server = yield* Postgres.Server
      const holding = { now: 0, most: 0 }
      let quick = 0
      const hog = Hog.toLayer(
        Effect.gen(function* () {
          const application = yield* SqlClient.SqlClient
          return ({ args }) =>
            application.withTransaction(
              Effect.gen(function* () {
                yield* application`select 1`
                holding.most = Math.max(holding.most, ++holding.now)
                yield* Effect.ensuring(
                  Effect.sleep(args.millis),
                  Effect.sync(() => holding.now--)
                )
              })
            )
        })
      )
      const context = yield* Layer.build(
        Layer.fresh(
          Jobs.layer({
            queues: { hogs: 5, quick: 5 },
            workers: [hog, Quick.toLayer(Effect.succeed(() => Effect.sync(() => void quick++)))],
            lease: ttl,
            pollInterval: "300 millis",
            shutdownGrace: "100 millis",
            migrate: false,
            log: "none",
            node: "busy"
          })
        ).pipe(
          Layer.provide(
            Layer.fresh(PgClient.layerFrom(PgClient.make({ url: server.url(), maxConnections: connections })))
          ),
          Layer.provide(Reactivity.layer)
        )
      )
      const node = Context.get(context, Jobs.Jobs)
      const events = yield* Effect.provideContext(record, Context.merge(yield* Effect.context<never>(), context))
      // Somebody who would take over.
      const runs: Array<Run> = []
      const judge = yield* liveNode("judge", server.url(), runs, { queues: { other: 1 }, lease: ttl })
      // Until it may judge.
      yield* Effect.sleep(ttl)

      // The last two wait for a connection themselves.
      const hogs: Array<Parameters<typeof jobs.get>[0]> = []
      for (const millis of [1.5 * ttl, 1.5 * ttl, 10, 10]) {
        hogs.push(yield* inserted(jobs.enqueue(Hog.job({ millis }))))
        yield* eventually(
          "those that there are connections for have one",
          Effect.sync(() => holding.now),
          (n) => n === Math.min(hogs.length, connections)
        )
      }
      const began = now()
      let rounds = 0
      let oldest = 0
      while (now() - began < 1.2 * ttl) {
        const id = yield* inserted(jobs.enqueue(Quick.job({})))
        yield* eventually("a quick one is completed", jobs.get(id), ({ state }) => state === "completed", 1_500)
        oldest = Math.max(oldest, Duration.toMillis((yield* node.status).heartbeatAge ?? Duration.infinity))
        rounds++
        yield* Effect.sleep(20)
      }
      // Nothing of it was because the connections were free again.
      assert.strictEqual(holding.now, connections)
      assert.isAbove(rounds, 5)
      assert.strictEqual(quick, rounds)
      assert.isBelow(oldest, (ttl * 7) / 12)
      for (const id of hogs) {
        yield* eventually("a hog is completed", jobs.get(id), ({ state }) => state === "completed")
        assert.deepInclude(yield* jobs.get(id), { attempt: 1, rescues: 0, lease: 1 })
      }
      assert.strictEqual(holding.most, connections)
      const [nodes] = yield* sql`select count(*)::int4 as n from jobs.nodes where name = 'busy'`
      assert.deepStrictEqual(nodes, { n: 1 })
      for (const seen of [events, judge.events]) {
        assert.deepStrictEqual(
          seen.filter(({ _tag }) => _tag === "LeaseLost" || _tag === "Rescued"),
          []
        )
      }
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None"), Effect.scoped)
  )
})
