import { assert, describe, layer } from "@effect/vitest"
import { Sandbox } from "@coppice/postgres"
import { Duration, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { JobsConfig, Migrations, Retention } from "@coppice/jobs"
import * as Database from "../src/internal/database.ts"
import * as History from "../src/internal/history.ts"
import { all, insert, insertOne, key, keys, Recorder, recorder } from "./fixtures/tables.ts"
import { EmptyDatabase } from "./fixtures/engine.ts"

const tables = Layer.effectDiscard(Migrations.run).pipe(Layer.provideMerge(EmptyDatabase))
/** Every test in a transaction of its own, on virtual time that begins with it. */
const fresh = Layer.effectDiscard(TestClock.setTime(0)).pipe(
  Layer.merge(recorder),
  Layer.provideMerge(Sandbox.layer),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)

const ensure = Effect.flatMap(Recorder, ({ client }) => History.ensurePartitions(client.database))
const prune = (retention?: Retention.Retention) =>
  Effect.gen(function* () {
    const { client } = yield* Recorder
    return yield* History.prune(client.database, yield* Retention.limits(retention))
  })

/** How many jobs are in which partition. */
const partitions = Effect.gen(function* () {
  const { client } = yield* Recorder
  const rows = yield* client.database.run<{ readonly name: string; readonly n: number }>(
    `select relname as name, (select count(*) from jobs.jobs_history h where h.tableoid = pg_class.oid)::int as n
       from pg_inherits join pg_class on pg_class.oid = inhrelid
      where inhparent = 'jobs.jobs_history'::regclass order by relname`
  )
  return Object.fromEntries(rows.map((row) => [row.name.replace("jobs_history_", ""), row.n]))
})

const forever = { completed: {}, cancelled: {}, discarded: {} }

layer(tables)("history", (it) => {
  describe("partitions", () => {
    it.effect("are there for today and three days more, and follow the clock", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* ensure, { made: 4, postponed: 0 })
        assert.deepStrictEqual(yield* ensure, { made: 0, postponed: 0 })
        yield* insert({ state: "completed", count: 2 })
        yield* TestClock.adjust("2 days")
        yield* insert({ state: "completed", count: 3 })
        assert.deepStrictEqual(yield* ensure, { made: 2, postponed: 0 })
        assert.deepStrictEqual(yield* partitions, {
          "19700101": 2,
          "19700102": 0,
          "19700103": 3,
          "19700104": 0,
          "19700105": 0,
          "19700106": 0,
          default: 0
        })
      }).pipe(Effect.provide(fresh))
    )

    it.effect("take what finished before they were there", () =>
      Effect.gen(function* () {
        yield* insert({ state: "completed", count: 3 })
        yield* insert({ state: "discarded", count: 2, finishedAt: new Date(Duration.toMillis("1 day") - 1) })
        yield* insert({ state: "cancelled", count: 4, finishedAt: new Date(Duration.toMillis("1 day")) })
        yield* insert({ state: "cancelled", count: 1, finishedAt: new Date(-1) })
        const before = yield* all
        // The second of January has jobs before its time: it is made when it comes.
        assert.deepStrictEqual(yield* ensure, { made: 3, postponed: 1 })
        yield* TestClock.adjust("1 day")
        assert.deepStrictEqual(yield* ensure, { made: 2, postponed: 0 })
        const found = yield* partitions
        assert.deepStrictEqual([found["19700101"], found["19700102"], found["default"]], [5, 4, 1])
        assert.deepStrictEqual(yield* all, before)
      }).pipe(Effect.provide(fresh))
    )

    it.effect(
      "wait for another day where moving jobs would take long, and those are kept and pruned as others are",
      () =>
        Effect.gen(function* () {
          yield* insert({ state: "completed", count: 10_001 })
          assert.deepStrictEqual(yield* ensure, { made: 3, postponed: 1 })
          assert.strictEqual((yield* partitions)["default"], 10_001)
          yield* TestClock.adjust("1 day")
          assert.deepStrictEqual(yield* ensure, { made: 1, postponed: 0 })
          yield* TestClock.adjust("1 day")
          assert.deepStrictEqual(yield* prune({ ...forever, completed: { age: "1 day" } }), {
            jobs: 10_001,
            partitions: 1,
            keys: 0
          })
        }).pipe(Effect.provide(fresh))
    )

    it.effect(
      "are those of UTC, whatever the session's time zone and way of writing dates, and in a schema of any name",
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          yield* Effect.provideService(Migrations.run, JobsConfig.SchemaName, "Other_Jobs")
          const database = yield* Database.make(sql, "Other_Jobs", "clock")
          yield* sql`set local timezone = 'Asia/Kathmandu'`
          yield* sql`set local datestyle = 'German, DMY'`
          // In Kathmandu it is another day by now.
          yield* TestClock.adjust("20 hours")
          assert.deepStrictEqual(yield* History.ensurePartitions(database), { made: 4, postponed: 0 })
          yield* database.timed(
            `insert into "Other_Jobs".jobs_history (id, state, finished_at, queue, worker) values (1, 'completed', ${Database.now}, 'q', 'W')`
          )
          assert.lengthOf(yield* database.run(`select from "Other_Jobs".jobs_history_19700101`), 1)
          yield* TestClock.adjust("8 days")
          const pruned = yield* History.prune(database, yield* Retention.limits())
          assert.deepStrictEqual(pruned, { jobs: 1, partitions: 4, keys: 0 })
        }).pipe(Effect.provide(fresh))
    )

    it.effect("of a day that somebody detached are neither made again nor dropped", () =>
      Effect.gen(function* () {
        const { client } = yield* Recorder
        yield* ensure
        yield* insert({ state: "completed" })
        yield* client.database.run("alter table jobs.jobs_history detach partition jobs.jobs_history_19700101")
        yield* insert({ state: "completed" })
        assert.deepStrictEqual(yield* ensure, { made: 0, postponed: 0 })
        yield* TestClock.adjust("60 days")
        assert.deepStrictEqual(yield* prune(), { jobs: 1, partitions: 3, keys: 0 })
        assert.lengthOf(yield* client.database.run("select from jobs.jobs_history_19700101"), 1)
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("retention", () => {
    it.effect("removes what finished longer ago than its state's age, whenever it was due", () =>
      Effect.gen(function* () {
        yield* ensure
        const { client } = yield* Recorder
        const waited = yield* insertOne({ state: "completed" })
        yield* client.database.run(
          `update jobs.jobs_history set scheduled_at = '1960-01-01', inserted_at = '1960-01-01'`
        )
        yield* insert({ state: "cancelled" })
        const failed = yield* insertOne({ state: "discarded" })
        const rules = {
          completed: { age: "2 hours" },
          cancelled: { age: "1 hour" },
          discarded: { age: "3 hours" }
        } as const
        yield* TestClock.adjust(Duration.millis(Duration.toMillis("1 hour") - 1))
        assert.strictEqual((yield* prune(rules)).jobs, 0)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual((yield* prune(rules)).jobs, 1)
        assert.deepStrictEqual(
          (yield* all).map((row) => row.id),
          [waited, failed]
        )
        yield* TestClock.adjust("1 hour")
        assert.strictEqual((yield* prune(rules)).jobs, 1)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual((yield* prune(rules)).jobs, 1)
        assert.deepStrictEqual(yield* all, [])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("keeps the last ones of a state, also among those that finished in one statement", () =>
      Effect.gen(function* () {
        yield* insert({ state: "completed", count: 10 })
        yield* TestClock.adjust("1 minute")
        const last = yield* insert({ state: "completed", count: 10 })
        const discarded = yield* insert({ state: "discarded", count: 3 })
        assert.strictEqual((yield* prune({ ...forever, completed: { count: 4 } })).jobs, 16)
        assert.strictEqual((yield* prune({ ...forever, completed: { count: 4 } })).jobs, 0)
        assert.deepStrictEqual(
          (yield* all).map((row) => row.id),
          [...last.slice(-4), ...discarded]
        )
        assert.strictEqual((yield* prune({ ...forever, completed: { count: 0 } })).jobs, 4)
        assert.strictEqual((yield* prune({ ...forever, discarded: { count: 0 } })).jobs, 3)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("counts rows however small they are", () =>
      Effect.gen(function* () {
        yield* insert({ state: "completed", queue: "q", worker: "w", count: 3_000 })
        assert.strictEqual((yield* prune({ ...forever, completed: { count: 2_999 } })).jobs, 1)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("takes whichever of age and count is the stricter", () =>
      Effect.gen(function* () {
        yield* insert({ state: "completed", count: 5 })
        yield* TestClock.adjust("1 hour")
        yield* insert({ state: "completed", count: 5 })
        assert.strictEqual((yield* prune({ ...forever, completed: { age: "1 hour", count: 8 } })).jobs, 5)
        assert.strictEqual((yield* prune({ ...forever, completed: { age: "1 hour", count: 2 } })).jobs, 3)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("drops days in which nothing is left to keep, through virtual weeks", () =>
      Effect.gen(function* () {
        const rules = {
          completed: { age: "5 days" },
          cancelled: { age: "2 days" },
          discarded: { age: "15 days" }
        } as const
        const total = { jobs: 0, partitions: 0 }
        for (let day = 0; day < 25; day++) {
          yield* ensure
          yield* insert({ state: "completed", count: 5 })
          yield* insert({ state: "cancelled", count: 2 })
          if (day % 5 === 0) yield* insert({ state: "discarded" })
          const { jobs, partitions: dropped } = yield* prune(rules)
          total.jobs += jobs
          total.partitions += dropped
          yield* TestClock.adjust("1 day")
        }
        const states = (yield* all).map((row) => row.state)
        const count = (state: string) => states.filter((found) => found === state).length
        // What finishes now is a day older when the clock stops.
        assert.deepStrictEqual([count("completed"), count("cancelled"), count("discarded")], [5 * 5, 2 * 2, 3])
        assert.strictEqual(total.jobs, 25 * 7 + 5 - states.length)
        const found = yield* partitions
        assert.strictEqual(found["default"], 0)
        // Five days, three days ahead, and the days of failures that are kept.
        assert.isAtMost(Object.keys(found).length, 1 + 5 + 3 + 3)
        assert.isAbove(total.partitions, 14)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("takes unique keys along: of jobs that go, and those whose period is over", () =>
      Effect.gen(function* () {
        yield* ensure
        const old = yield* insertOne({ state: "completed" })
        yield* key(old, { key: "old", states: 127 })
        yield* TestClock.adjust("1 day")
        yield* ensure
        const pruned = yield* insertOne({ state: "cancelled" })
        const kept = yield* insertOne({ state: "completed" })
        const over = yield* insertOne({ state: "completed" })
        const active = yield* insertOne()
        yield* key(pruned, { key: "pruned", states: 127 })
        yield* key(kept, { key: "kept", states: 127 })
        yield* key(over, { key: "over", states: 127, until: new Date(Duration.toMillis("1 day")) })
        yield* key(active, { key: "active", states: 15, until: new Date(Duration.toMillis("2 days")) })
        const rules = { completed: { age: "1 day" }, cancelled: { age: 0 }, discarded: {} } as const
        assert.deepStrictEqual(yield* prune(rules), { jobs: 2, partitions: 1, keys: 3 })
        assert.deepStrictEqual(yield* keys, { kept, active })
      }).pipe(Effect.provide(fresh))
    )

    it.effect("is kept by a role that may change rows but no tables", () =>
      Effect.gen(function* () {
        const { client } = yield* Recorder
        yield* ensure
        yield* insert({ state: "completed", count: 3 })
        yield* TestClock.adjust("10 days")
        yield* insert({ state: "completed", count: 2 })
        const old = yield* partitions
        yield* client.database.run("create role app")
        yield* client.database.run("grant usage on schema jobs to app")
        yield* client.database.run("grant select, insert, update, delete on all tables in schema jobs to app")
        yield* client.database.run("set local role app")
        assert.deepStrictEqual(yield* ensure, { made: 0, postponed: 4 })
        assert.deepStrictEqual(yield* prune(), { jobs: 3, partitions: 0, keys: 0 })
        yield* client.database.run("reset role")
        assert.deepStrictEqual(yield* partitions, { ...old, "19700101": 0 })
      }).pipe(Effect.provide(fresh))
    )

    it.effect("of nothing and for ever removes nothing", () =>
      Effect.gen(function* () {
        yield* insert({ state: "completed", count: 3, finishedAt: new Date("1800-01-01") })
        const ages = [
          {},
          { age: Duration.infinity },
          { age: "10000000 days" },
          { count: Number.POSITIVE_INFINITY }
        ] as const
        for (const rule of ages) {
          assert.strictEqual((yield* prune({ completed: rule, cancelled: rule, discarded: rule })).jobs, 0)
        }
        assert.strictEqual((yield* prune()).jobs, 3)
      }).pipe(Effect.provide(fresh))
    )
  })
})
