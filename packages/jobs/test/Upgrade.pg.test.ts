/** Nodes of an old and of a new release at once, and nodes that start while others are at work. */
import { Jobs, Migrations, Worker } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Schema } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"
import { inserted } from "./fixtures/engine.ts"
import { apart, eventually, liveNode, now, type Run, task } from "./fixtures/liveNode.ts"

const Database = Jobs.layerClient.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 6 } })
  )
)

/** What the old release knows of the same worker. */
class Before extends Worker.Service<Before>()("Report", { args: { page: Schema.Int } }) {}
class After extends Worker.Service<After>()("Report", {
  args: { page: Schema.Int, copies: Schema.optionalKey(Schema.Int) },
  argsVersion: 2
}) {}
/** One that only the new release has. */
class Added extends Worker.Service<Added>()("Added", { args: {} }) {}

/** A release on a node. */
const release = Effect.fnUntraced(function* <const Workers extends ReadonlyArray<Layer.Any>>(
  name: string,
  workers: Workers
) {
  const server = yield* Postgres.Server
  return yield* Layer.build(
    Layer.fresh(
      Jobs.layer({ queues: { default: 5 }, pollInterval: "200 millis", log: "none", node: name, workers })
    ).pipe(
      Layer.provide(Layer.fresh(PgClient.layerFrom(PgClient.make({ url: server.url(), maxConnections: 2 })))),
      Layer.provide(Reactivity.layer)
    )
  )
})

describe.concurrent("an upgrade", () => {
  it.live("leaves new jobs to nodes of the new release while those of the old one go on, and uses no attempt", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const jobs = yield* Jobs.Jobs
      const ran = { old: 0, new: 0, added: 0 }
      yield* release("old", [Before.toLayer(Effect.succeed(() => Effect.sync(() => void ran.old++)))])
      const total = 200
      const each = Array.from({ length: total }, (_, n) => n)
      const batch = (size: number) =>
        Effect.forEach(each.slice(0, size), (n) =>
          jobs.enqueueMany([Before.job({ page: n }), After.job({ page: n, copies: 2 }), Added.job({})])
        )
      yield* batch(total / 2)
      yield* eventually(
        "the old node has done what it can",
        Effect.sync(() => ran.old),
        (n) => n === total / 2
      )
      assert.strictEqual((yield* jobs.list({ state: "available" }, { limit: total * 2 })).length, total)
      yield* release("new", [
        After.toLayer(Effect.succeed(() => Effect.sync(() => void ran.new++))),
        Added.toLayer(Effect.succeed(() => Effect.sync(() => void ran.added++)))
      ])
      yield* batch(total / 2)
      yield* eventually(
        "all are done",
        sql<{ readonly n: number }>`select count(*)::int4 as n from jobs.jobs`,
        ([row]) => row?.n === 0
      )
      // Each of the old kind by whichever release had it first.
      assert.deepStrictEqual([ran.old + ran.new, ran.added], [2 * total, total])
      assert.isAtLeast(ran.old, total / 2)
      const [row] = yield* sql`
        select count(*)::int4 as jobs, max(attempt) as attempt, max(jsonb_array_length(errors)) as errors,
               count(*) filter (where state <> 'completed')::int4 as others from jobs.jobs_history`
      assert.deepStrictEqual(row, { jobs: 3 * total, attempt: 1, errors: 0, others: 0 })
    }).pipe(apart(Database))
  )

  it.live("that migrates waits for nobody's jobs, and nobody's jobs wait for it", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const jobs = yield* Jobs.Jobs
      const server = yield* Postgres.Server
      const runs: Array<Run> = []
      const one = yield* liveNode("one", server.url(), runs)
      const long = yield* inserted(jobs.enqueue(task()))
      yield* eventually("it runs", jobs.get(long), ({ state }) => state === "executing")
      const application = yield* Layer.build(
        Layer.fresh(PgClient.layerFrom(PgClient.make({ url: server.url(), maxConnections: 1 }))).pipe(
          Layer.provide(Reactivity.layer)
        )
      )
      const other = Context.get(application, SqlClient.SqlClient)
      // Somebody whose migration takes its time.
      const { starting, waits } = yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`select pg_advisory_xact_lock(hashtextextended('coppice/jobs/jobs', 0))`
          yield* sql`insert into jobs.migrations (migration_id, name) values (0, 'of an earlier release')`
          // A node of this release finds the tables as it wants them, and starts.
          const starting = yield* Effect.forkChild(liveNode("two", server.url(), runs, { migrate: true }))
          const waits: Array<number> = []
          for (let n = 0; n < 20; n++) {
            const began = now()
            const id = yield* inserted(one.jobs.enqueue(task(0)))
            yield* eventually(
              "it runs",
              Effect.sync(() => runs.find(({ job, ended }) => job === id && ended !== undefined)),
              (run) => run !== undefined
            )
            waits.push(now() - began)
          }
          return { starting, waits }
        })
      )
      assert.isBelow(Math.max(...waits), 2_000)
      yield* Fiber.join(starting)
      // What it takes to see that, while jobs run: nothing that anybody waits for.
      yield* other.withTransaction(
        Effect.gen(function* () {
          yield* Effect.provide(Migrations.run, application)
          const locks = yield* other`
            select distinct mode from pg_locks
             where pid = pg_backend_pid() and locktype in ('relation', 'advisory') and mode <> 'AccessShareLock'`
          assert.deepStrictEqual(locks, [])
        })
      )
      assert.strictEqual((yield* jobs.get(long)).state, "executing")
    }).pipe(apart(Database))
  )
})
