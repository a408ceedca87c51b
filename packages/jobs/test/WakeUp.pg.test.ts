import { Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { inserted } from "./fixtures/engine.ts"
import { apart, eventually, liveNode, now, type Run, task } from "./fixtures/liveNode.ts"
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
  const jobs = yield* Jobs.Jobs
  const server = yield* Postgres.Server
  const runs: Array<Run> = []
  const enqueue = (...args: Parameters<typeof task>) => inserted(jobs.enqueue(task(...args)))
  /** How long after an instant a job began. */
  const started = (job: number, since: number) =>
    Effect.map(
      eventually(
        `job ${job} begins`,
        Effect.sync(() => runs.find((run) => run.job === job)),
        (run) => run !== undefined
      ),
      (run) => (run?.started ?? Infinity) - since
    )
  return { sql, jobs, server, runs, enqueue, started }
})

const quietly = apart(Database)

/** Longer than anything here takes, so that nothing is found by polling unless it is what a test is about. */
const never = { pollInterval: "1 minute", lease: "30 seconds" } as const

const middle = (values: ReadonlyArray<number>) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Infinity

describe.concurrent("a new job", () => {
  it.live("is started at once by a node that listens, and not before its transaction commits", () =>
    quietly(
      Effect.gen(function* () {
        const { enqueue, runs, server, sql, started } = yield* empty
        const one = yield* liveNode("one", server.url(), runs, never)
        yield* eventually("it listens", one.jobs.status, ({ wakeUp }) => wakeUp === "listen")
        const waits: Array<number> = []
        for (let round = 0; round < 30; round++) {
          const since = now()
          waits.push(yield* started(yield* enqueue(0), since))
          yield* Effect.sleep(10)
        }
        // Three milliseconds on a machine with nothing else to do.
        assert.isBelow(middle(waits), 50)
        const ids: Array<number> = []
        yield* sql.withTransaction(
          Effect.gen(function* () {
            ids.push(yield* enqueue(0))
            yield* Effect.sleep(100)
            assert.isUndefined(runs.find(({ job }) => job === ids[0]))
          })
        )
        assert.isBelow(yield* started(ids[0] ?? 0, now()), 500)
        yield* Effect.flip(sql.withTransaction(Effect.andThen(enqueue(0), Effect.fail("no"))))
        yield* Effect.sleep(50)
        assert.lengthOf(runs, 31)
      })
    )
  )

  it.live("that is scheduled starts within milliseconds of its time, also when that is soon", () =>
    quietly(
      Effect.gen(function* () {
        const { enqueue, runs, server, started } = yield* empty
        yield* liveNode("one", server.url(), runs, { pollInterval: "1 second", lease: "30 seconds" })
        const late: Array<number> = []
        for (const millis of [1_500, 1_700, 2_100, 300, 400, 600]) {
          const since = now()
          const id = yield* enqueue(0, { scheduleIn: millis })
          late.push((yield* started(id, since)) - millis)
        }
        assert.isTrue(
          late.every((by) => by > -20),
          late.join()
        )
        assert.isBelow(middle(late), 100, late.join())
      })
    )
  )

  it.live("is found by polling when the listener is killed, and the listener comes back", () =>
    quietly(
      Effect.gen(function* () {
        const { enqueue, runs, server, sql, started } = yield* empty
        const one = yield* liveNode("one", server.url(), runs, { pollInterval: "500 millis", lease: "30 seconds" })
        for (let round = 0; round < 5; round++) {
          yield* eventually("it listens", one.jobs.status, ({ wakeUp }) => wakeUp === "listen")
          const [killed] = yield* sql`
            select count(*) filter (where pg_terminate_backend(pid))::int4 as n from pg_stat_activity
             where application_name = 'coppice jobs listener' and datname = current_database()`
          assert.deepStrictEqual(killed, { n: 1 })
          const since = now()
          assert.isBelow(yield* started(yield* enqueue(0), since), 1_500)
        }
        yield* eventually(
          "it says that it listens again",
          Effect.sync(() => one.events.flatMap((event) => (event._tag === "WakeUpMode" ? [event.mode] : []))),
          (modes) => modes.includes("poll") && modes.at(-1) === "listen"
        )
      })
    )
  )

  it.live("is found by polling behind a pooler that forgets LISTEN, and the status says so", () =>
    quietly(
      Effect.gen(function* () {
        const { enqueue, runs, server, started } = yield* empty
        const pooler = yield* proxy(server.url())
        yield* pooler.deaf(true)
        const one = yield* liveNode("one", pooler.url, runs, { pollInterval: "300 millis", lease: "30 seconds" })
        for (let round = 0; round < 10; round++) {
          assert.strictEqual((yield* one.jobs.status).wakeUp, "poll")
          const since = now()
          assert.isBelow(yield* started(yield* enqueue(0), since), 1_300)
        }
      })
    )
  )

  it.live("is found by all nodes of a queue, each of which takes what it has room for", () =>
    quietly(
      Effect.gen(function* () {
        const { jobs, runs, server } = yield* empty
        const one = { queues: { default: 2 }, pollInterval: "500 millis", lease: "30 seconds" } as const
        yield* liveNode("small", server.url(), runs, one)
        // So quick that much of them is claimed ahead; then slow ones come, of which it may run two.
        yield* jobs.enqueueMany(Array.from({ length: 3_000 }, () => task(0)))
        yield* jobs.enqueueMany(Array.from({ length: 100 }, () => task(60_000)))
        yield* eventually(
          "the quick ones are done",
          Effect.sync(() => runs.filter(({ how }) => how === "succeeded").length),
          (n) => n === 3_000
        )
        yield* liveNode("large", server.url(), runs, { ...one, queues: { default: 100 } })
        yield* eventually(
          "the slow ones run",
          Effect.sync(() => runs.length),
          (n) => n >= 3_100,
          8_000
        )
        const slow = runs.filter(({ how }) => how !== "succeeded")
        assert.strictEqual(new Set(slow.map(({ job }) => job)).size, 100)
        assert.lengthOf(slow, 100)
        assert.lengthOf(
          slow.filter(({ node }) => node === "small"),
          2
        )
      })
    )
  )
})
