import { Jobs, Worker } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, References, Schema } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"
import { inserted, record } from "./fixtures/engine.ts"
import { apart, eventually } from "./fixtures/liveNode.ts"
import { backends, missing, pgbouncer } from "./fixtures/pgbouncer.ts"

/** Says on which of the server's connections its two statements ran, outside of a transaction. */
class Visit extends Worker.Service<Visit>()("Visit", {
  args: { n: Schema.Int, millis: Schema.Finite, fails: Schema.Boolean },
  unique: { keys: ["n"] },
  backoff: () => "50 millis"
}) {}

const Database = Postgres.layerTestDatabase({ pool: { maxConnections: 2 } })

describe("a node whose connections go through a pooler between transactions", () => {
  it.live(
    "makes its tables, and runs, retries, cancels and limits jobs, found by polling, as its status says",
    (context) =>
      Effect.gen(function* () {
        if (missing !== undefined) return context.skip(missing)
        const sql = yield* SqlClient.SqlClient
        const url = yield* pgbouncer((yield* Postgres.Server).url())
        const pids = new Set<number>()
        const problems: Array<unknown> = []
        const logger = Logger.layer([Logger.make(({ message }) => void problems.push(message))])
        const visit = Visit.toLayer(
          Effect.gen(function* () {
            const pooled = yield* SqlClient.SqlClient
            return ({ args, attempt }) =>
              Effect.gen(function* () {
                for (let n = 0; n < 2; n++) {
                  const [row] = yield* pooled<{ readonly pid: number }>`select pg_backend_pid() as pid`
                  pids.add(row?.pid ?? 0)
                }
                yield* Effect.sleep(args.millis)
                if (args.fails && attempt === 1) return yield* Effect.fail("once")
              })
          })
        )
        const node = yield* Layer.build(
          Layer.fresh(
            Jobs.layer({
              queues: { default: 5, limited: { limit: 5, global: 2 } },
              workers: [visit],
              cron: [{ name: "often", expression: "* * * * * *", job: Visit.job({ n: -1, millis: 0, fails: false }) }],
              lease: "3 seconds",
              pollInterval: "100 millis",
              shutdownGrace: 0,
              log: "none"
            })
          ).pipe(
            // What the guide says of poolers that do not know prepared statements.
            Layer.provide(Layer.fresh(PgClient.layerFrom(PgClient.make({ url, maxConnections: 3, prepare: false })))),
            Layer.provide(Reactivity.layer),
            Layer.provide(logger)
          )
        ).pipe(Effect.provideService(References.MinimumLogLevel, "Warn"))
        const jobs = Context.get(node, Jobs.Jobs)
        const events = yield* Effect.provideContext(record, Context.merge(yield* Effect.context<never>(), node))
        const visits = (from: number, millis = 0, fails = false) =>
          Array.from({ length: 100 }, (_, n) => ({ n: from + n, millis, fails }))
        const long = yield* inserted(jobs.enqueue(Visit.job({ n: -2, millis: 60_000, fails: false })))
        yield* jobs.enqueueMany(visits(0).map((args) => Visit.job(args)))
        const again = yield* jobs.enqueueMany(visits(50, 0, true).map((args) => Visit.job(args, { queue: "limited" })))
        assert.isTrue(again.every(({ _tag }) => _tag === "Inserted"))
        const left = sql<{ readonly n: number }>`select count(*)::int4 as n from jobs.jobs where cron_name is null`
        yield* eventually("all but the long one are done", left, ([row]) => row?.n === 1)
        yield* jobs.cancel({ id: long })
        yield* eventually("it is cancelled", jobs.get(long), ({ state }) => state === "cancelled")
        yield* eventually(
          "the crontab has fired",
          sql`select from jobs.jobs_history where cron_name = 'often'`,
          ({ length }) => length > 0
        )
        const status = yield* jobs.status
        assert.strictEqual(status.wakeUp, "poll")
        assert.deepStrictEqual(
          events.filter(({ _tag }) => _tag === "LeaseLost" || _tag === "Rescued" || _tag === "WakeUpMode"),
          []
        )
        const [ended] = yield* sql`
        select count(*) filter (where state = 'completed' and attempt = 1)::int4 as first,
               count(*) filter (where state = 'completed' and attempt = 2)::int4 as second, max(rescues) as rescues
          from jobs.jobs_history where cron_name is null`
        assert.deepStrictEqual(ended, { first: 100, second: 100, rescues: 0 })
        // Nothing failed, to be tried again.
        assert.deepStrictEqual(problems, [])
        // It was a pooler, and whatever a session keeps is not the queue's.
        assert.strictEqual(pids.size, backends)
        assert.deepStrictEqual(
          yield* sql`
          select l.locktype, l.mode from pg_locks l join pg_stat_activity a using (pid)
           where a.datname = current_database() and a.state = 'idle'`,
          []
        )
      }).pipe(apart(Database))
  )
})
