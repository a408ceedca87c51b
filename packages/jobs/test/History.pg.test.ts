import { assert, describe, layer } from "@effect/vitest"
import { Postgres } from "@coppice/postgres"
import { Deferred, Duration, Effect, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { Job, JobsConfig, Migrations, Retention } from "@coppice/jobs"
import * as Care from "../src/internal/care.ts"
import * as History from "../src/internal/history.ts"
import { all, insert, Recorder, recorder } from "./fixtures/tables.ts"

// The database is real, and the days are virtual: each round has days of its own.
const tables = recorder.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 12 } })
  ),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)

const setUp = Effect.gen(function* () {
  const { client } = yield* Recorder
  const { database } = client
  yield* database.run("delete from jobs.jobs")
  yield* database.run("delete from jobs.jobs_history")
  return {
    database,
    sql: yield* SqlClient.SqlClient,
    care: Care.make(client),
    ensure: History.ensurePartitions(database),
    prune: (retention: Retention.Retention) =>
      Effect.flatMap(Retention.limits(retention), (limits) => History.prune(database, limits))
  }
})

const nodes = 8
const atOnce = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.replicateEffect(effect, nodes, { concurrency: nodes })
const sum = (numbers: ReadonlyArray<number>) => numbers.reduce((total, n) => total + n, 0)
const forever = { completed: {}, cancelled: {}, discarded: {} }

layer(tables)("history on several connections", (it) => {
  describe("partitions", () => {
    it.effect("are made once, however many nodes make them at once", () =>
      Effect.gen(function* () {
        const { ensure } = yield* setUp
        let made = 0
        for (let round = 0; round < 20; round++) {
          const answers = yield* atOnce(ensure)
          made += sum(answers.map((answer) => answer.made))
          yield* TestClock.adjust("3 days")
        }
        assert.strictEqual(made, 4 + 19 * 3)
        assert.deepStrictEqual(yield* ensure, { made: 3, postponed: 0 })
      })
    )

    it.effect("are made while jobs finish, and none of them fails or is lost", () =>
      Effect.gen(function* () {
        const { care, ensure } = yield* setUp
        yield* TestClock.adjust("100 days")
        let stop = false
        let finished = 0
        let made = 0
        const rounds = 8
        const finish = Effect.gen(function* () {
          const ids = yield* insert({ count: 5 })
          const { cancelled } = yield* care.cancel({ id: ids.map((id) => Job.JobId.make(id)) })
          finished += cancelled
        }).pipe(Effect.repeat({ until: () => stop }))
        // Each round begins a day that has no partition, in which jobs are finishing already.
        const days = Effect.gen(function* () {
          for (let round = 0; round < rounds; round++) {
            yield* TestClock.adjust("4 days")
            const before = finished
            yield* Effect.repeat(Effect.yieldNow, { until: () => finished >= before + 20 })
            for (let missing = 4; missing > 0;) {
              const answers = yield* atOnce(ensure)
              const now = sum(answers.map((answer) => answer.made))
              missing -= now
              made += now
            }
          }
          stop = true
        })
        yield* Effect.all([days, ...Array.from({ length: 4 }, () => finish)], { concurrency: "unbounded" })
        assert.strictEqual(made, rounds * 4)
        assert.lengthOf(yield* all, finished)
      })
    )

    it.effect("wait for a transaction that looks at the history, and hold nobody up for long", () =>
      Effect.gen(function* () {
        const { ensure, sql } = yield* setUp
        yield* TestClock.adjust("100 days")
        const reading = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const reader = yield* Effect.forkChild(
          sql`select count(*) from jobs.jobs_history`.pipe(
            Effect.andThen(Deferred.succeed(reading, undefined)),
            Effect.andThen(Deferred.await(go)),
            sql.withTransaction
          )
        )
        yield* Deferred.await(reading)
        assert.deepStrictEqual(yield* ensure, { made: 0, postponed: 4 })
        yield* insert({ state: "completed" })
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(reader)
        assert.deepStrictEqual(yield* ensure, { made: 4, postponed: 0 })
        const [setting] = yield* sql<{ readonly lock_timeout: string }>`show lock_timeout`
        assert.strictEqual(setting?.lock_timeout, "0")
      })
    )
  })

  describe("prune", () => {
    it.effect("removes each job once, however many nodes prune at once", () =>
      Effect.gen(function* () {
        const { ensure, prune } = yield* setUp
        for (let round = 0; round < 2; round++) {
          yield* ensure
          yield* insert({ state: "completed", count: 12_000 })
          yield* insert({ state: "discarded", count: 3_000 })
          yield* TestClock.adjust("1 hour")
          const kept = yield* insert({ state: "completed", count: 2_000 })
          const rules = { completed: { count: 1_500 }, cancelled: {}, discarded: { age: "1 hour" } } as const
          const first = yield* atOnce(prune(rules))
          const rest = yield* prune(rules)
          assert.strictEqual(sum(first.map((pruned) => pruned.jobs)) + rest.jobs, 12_000 + 500 + 3_000)
          assert.deepStrictEqual(
            (yield* all).map((row) => row.id),
            kept.slice(-1_500)
          )
          yield* prune({ ...forever, completed: { count: 0 } })
          yield* TestClock.adjust("1 day")
        }
      })
    )

    it.effect("drops each day once, while others make days, and finish jobs and look at them", () =>
      Effect.gen(function* () {
        const { care, ensure, prune } = yield* setUp
        let inserted = 0
        let pruned = 0
        let dropped = 0
        const node = Effect.gen(function* () {
          yield* ensure
          const ids = yield* insert({ state: "completed", count: 10 })
          inserted += ids.length
          const { jobs, partitions } = yield* prune({ ...forever, completed: { age: "2 days" } })
          pruned += jobs
          dropped += partitions
        })
        const read = Effect.gen(function* () {
          const [job] = yield* care.list({ state: "completed" })
          if (job !== undefined) yield* Effect.result(care.get(job.id))
        })
        for (let round = 0; round < 20; round++) {
          yield* Effect.all([atOnce(node), Effect.replicateEffect(read, 20)], { concurrency: "unbounded" })
          yield* TestClock.adjust("1 day")
        }
        const last = yield* prune({ ...forever, completed: { age: 0 } })
        pruned += last.jobs
        assert.strictEqual(pruned, inserted)
        assert.deepStrictEqual(yield* all, [])
        assert.isAbove(dropped, 12)
      })
    )

    it.effect("does not wait for jobs that somebody has locked, nor for who reads a day that is over", () =>
      Effect.gen(function* () {
        const { ensure, prune, sql } = yield* setUp
        yield* ensure
        yield* insert({ state: "completed", count: 10 })
        const [locked] = yield* all
        const held = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const holder = yield* Effect.forkChild(
          sql`select from jobs.jobs_history where id = ${locked?.id ?? 0} for update`.pipe(
            Effect.andThen(Deferred.succeed(held, undefined)),
            Effect.andThen(Deferred.await(go)),
            sql.withTransaction
          )
        )
        yield* Deferred.await(held)
        yield* TestClock.adjust(Duration.days(2))
        const rules = { ...forever, completed: { age: "1 hour" } } as const
        assert.strictEqual((yield* prune(rules)).jobs, 9)
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(holder)
        const after = yield* prune(rules)
        assert.strictEqual(after.jobs, 1)
        assert.isAbove(after.partitions, 0)
      })
    )
  })
})

layer(
  recorder.pipe(Layer.provideMerge(Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run } })))
)("history by the database's clock", (it) => {
  it.effect("has its partitions and its limits", () =>
    Effect.gen(function* () {
      const { ensure, prune } = yield* setUp
      assert.deepStrictEqual(yield* ensure, { made: 4, postponed: 0 })
      assert.deepStrictEqual(yield* ensure, { made: 0, postponed: 0 })
      const kept = yield* insert({ state: "completed", count: 5 })
      yield* insert({ state: "completed", count: 4, finishedAt: new Date(0) })
      yield* insert({ state: "discarded", count: 3, finishedAt: new Date(0) })
      assert.strictEqual((yield* prune(forever)).jobs, 0)
      assert.strictEqual((yield* prune({ ...forever, completed: { count: 7 } })).jobs, 2)
      assert.strictEqual((yield* prune({ ...forever, discarded: { age: "1 hour" } })).jobs, 3)
      assert.strictEqual((yield* prune({})).jobs, 2)
      assert.deepStrictEqual(
        (yield* all).map((row) => row.id),
        kept
      )
    })
  )
})
