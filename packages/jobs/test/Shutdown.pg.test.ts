import { Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"
import { inserted } from "./fixtures/engine.ts"
import { apart, eventually, liveNode, now, type Run, Task, task } from "./fixtures/liveNode.ts"
import { node } from "./fixtures/processes.ts"
import { proxy } from "./fixtures/proxy.ts"

const Database = Jobs.layerClient.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 8 } })
  )
)

const empty = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`delete from jobs.jobs`
  yield* sql`delete from jobs.jobs_history`
  yield* sql`delete from jobs.nodes`
  const jobs = yield* Jobs.Jobs
  const server = yield* Postgres.Server
  const runs: Array<Run> = []
  const counts = Effect.map(
    sql<{ readonly state: string; readonly n: number }>`
      select state, count(*)::int4 as n from jobs.jobs group by state
       union all select state, count(*)::int4 from jobs.jobs_history group by state`,
    (rows) => Object.fromEntries(rows.map(({ n, state }) => [state, n])) as Readonly<Record<string, number>>
  )
  return {
    sql,
    jobs,
    server,
    runs,
    counts,
    enqueue: (...args: Parameters<typeof task>) => inserted(jobs.enqueue(task(...args)))
  }
})

const quietly = apart(Database)

describe.concurrent("the end of a node", () => {
  it.live("lets handlers finish within the grace, interrupts the others, and gives them back as they were", () =>
    quietly(
      Effect.gen(function* () {
        const { enqueue, jobs, runs, server, sql } = yield* empty
        const one = yield* liveNode("one", server.url(), runs, { queues: { default: 4 }, shutdownGrace: "1 second" })
        const quick = [yield* enqueue(500), yield* enqueue(500)]
        const long = [yield* enqueue(), yield* enqueue()]
        const waiting = [yield* enqueue(), yield* enqueue()]
        yield* eventually(
          "they run",
          Effect.sync(() => runs.length),
          (n) => n === 4
        )
        const began = now()
        yield* one.stop
        assert.isBelow(now() - began, 4_000)
        for (const id of quick) assert.strictEqual((yield* jobs.get(id)).state, "completed")
        for (const id of [...long, ...waiting]) {
          assert.deepInclude(yield* jobs.get(id), { state: "available", attempt: 0, errors: [], rescues: 0 })
        }
        assert.lengthOf(yield* sql`select from jobs.nodes where stopped_at is null`, 0)
        // The next node begins where this one stopped.
        runs.length = 0
        yield* liveNode("two", server.url(), runs, { queues: { default: 3 } })
        yield* eventually(
          "the next runs them",
          Effect.sync(() => runs.length),
          (n) => n === 3
        )
        assert.deepStrictEqual(
          runs.map(({ attempt, job }) => [job, attempt]),
          [...long, waiting[0]].map((id) => [id, 1])
        )
      })
    )
  )

  it.live("under load leaves nothing executing, many times over", () =>
    quietly(
      Effect.gen(function* () {
        const { counts, jobs, runs, server } = yield* empty
        const total = 2_000
        yield* jobs.enqueueMany(Array.from({ length: total }, (_, n) => task(n % 10)))
        for (let round = 0; round < 8; round++) {
          const one = yield* liveNode(`round ${round}`, server.url(), runs, {
            queues: { default: 20 },
            shutdownGrace: 0
          })
          yield* Effect.sleep(30 + round * 15)
          yield* one.stop
          const { available = 0, completed = 0, executing = 0 } = yield* counts
          assert.deepStrictEqual([executing, available + completed], [0, total])
        }
        yield* liveNode("last", server.url(), runs, { queues: { default: 50 } })
        yield* eventually("all are done", counts, ({ completed }) => completed === total)
        const again = (yield* jobs.list({}, { limit: total })).filter(
          ({ attempt, rescues }) => attempt !== 1 || rescues !== 0
        )
        assert.deepStrictEqual(again, [])
      })
    )
  )

  it.live("by SIGTERM leaves nothing executing and loses nothing", () =>
    quietly(
      Effect.gen(function* () {
        const { counts, jobs, server, sql } = yield* empty
        yield* sql`create table if not exists ledger (job bigint not null, lease bigint not null, pid int not null)`
        const one = yield* node(Redacted.value(server.url()), { LIMIT: "20", GRACE: "100 millis" })
        yield* one.ready
        yield* sql`
          insert into jobs.jobs (queue, worker, args, max_attempts)
          select 'ledger', 'Ledger', jsonb_build_object('millis', n % 50, 'failures', 0), 10 from generate_series(1, 1000) n`
        yield* eventually("it is at work", counts, ({ completed = 0 }) => completed > 50)
        yield* one.signal("SIGTERM")
        yield* one.ended
        assert.include(one.lines, "stopped")
        const { available = 0, completed = 0, ...others } = yield* counts
        assert.deepStrictEqual([others, available + completed], [{}, 1_000])
        const [wrong] = yield* sql`
          select count(*)::int4 as n from jobs.jobs_history h
           where not exists (select from ledger l where l.job = h.id and l.lease = h.lease)`
        assert.deepStrictEqual(wrong, { n: 0 })
        assert.isTrue(
          (yield* jobs.list({ state: "available" }, { limit: 1_000 })).every(({ attempt }) => attempt === 0)
        )
      })
    )
  )

  it.live("does not wait for a handler that does not end, and leaves its job to others", () =>
    quietly(
      Effect.gen(function* () {
        const { jobs, runs, server } = yield* empty
        const one = yield* liveNode("one", server.url(), runs)
        const id = yield* inserted(jobs.enqueue(Task.job({ millis: 20_000, stubborn: true })))
        yield* eventually(
          "it runs",
          Effect.sync(() => runs.length),
          (n) => n === 1
        )
        const two = yield* liveNode("two", server.url(), runs)
        const began = now()
        yield* one.stop
        assert.isBelow(now() - began, 9_000)
        yield* eventually(
          "another takes it",
          Effect.sync(() => runs.length),
          (n) => n === 2
        )
        assert.deepInclude(yield* jobs.get(id), { state: "executing", attempt: 2, rescues: 1 })
        assert.isTrue(two.events.some((event) => event._tag === "Rescued" && event.id === id))
        yield* jobs.cancel({ id })
      })
    )
  )

  for (const mode of ["silent", "closed"] as const) {
    it.live(`ends although the database is away (${mode})`, () =>
      quietly(
        Effect.gen(function* () {
          const { enqueue, jobs, runs, server } = yield* empty
          const way = yield* proxy(server.url())
          const one = yield* liveNode("one", way.url, runs)
          const id = yield* enqueue()
          yield* eventually(
            "it runs",
            Effect.sync(() => runs.length),
            (n) => n === 1
          )
          yield* way.set(mode)
          const began = now()
          yield* one.stop
          // Five seconds for the database, and as long until the driver lets its connections go.
          assert.isBelow(now() - began, 15_000)
          assert.strictEqual(runs[0]?.how, "interrupted")
          yield* liveNode("two", server.url(), runs)
          yield* eventually(
            "another takes it",
            jobs.get(id),
            ({ attempt, state }) => state === "executing" && attempt === 2
          )
        })
      )
    )
  }

  it.live("comes at once when the database has another address, and the next one begins there", () =>
    quietly(
      Effect.gen(function* () {
        const { jobs, server } = yield* empty
        const way = yield* proxy(server.url())
        let url = way.url
        let runs = 0
        const worker = Task.toLayer(
          Effect.succeed(() =>
            Effect.andThen(
              Effect.sync(() => runs++),
              Effect.never
            )
          )
        )
        const options = { queues: { default: 5 }, lease: "30 seconds", migrate: false, log: "none" } as const
        const app = Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [
            Child.layer(
              "database",
              Layer.unwrap(Effect.sync(() => PgClient.layerFrom(PgClient.make({ url, maxConnections: 2 })))).pipe(
                Layer.provide(Reactivity.layer)
              )
            ),
            Child.layer("jobs", Jobs.layer({ ...options, workers: [worker], shutdownGrace: "10 seconds" }))
          ]
        })
        yield* Effect.gen(function* () {
          yield* inserted(jobs.enqueue(task()))
          yield* eventually(
            "it runs",
            Effect.sync(() => runs),
            (n) => n === 1
          )
          url = server.url()
          yield* way.set("closed")
          const began = now()
          yield* Tree.kill("App/database")
          yield* eventually("the queue is there", Tree.get("App/jobs"), ({ restarts, status }) => {
            return restarts === 1 && status === "running"
          })
          // It looks for the address every second; nothing that it has could be written at the old one.
          assert.isBelow(now() - began, 4_000)
          yield* inserted(jobs.enqueue(task()))
          yield* eventually(
            "it runs jobs there",
            Effect.sync(() => runs),
            (n) => n === 2
          )
          yield* jobs.cancel({})
        }).pipe(Effect.provide(Layer.provideMerge(Layer.fresh(app), Tree.layer), { local: true }))
      })
    )
  )
})
