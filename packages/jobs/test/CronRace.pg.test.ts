import { assert, describe, it } from "@effect/vitest"
import { Postgres } from "@coppice/postgres"
import { Migrations } from "@coppice/jobs"
import { Clock, Deferred, Effect, Exit, Fiber, Layer, References, type Scope } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"
import { type TimingRow, prepareAll } from "../src/internal/cronEntry.ts"
import { make } from "../src/internal/cronFiring.ts"
import { digest, nodeId, open } from "./fixtures/cron.ts"

const database = Postgres.layerTestDatabase({
  template: { name: "jobs", migrate: Migrations.run },
  pool: { minConnections: 10, maxConnections: 12 }
})

const node = Effect.flatMap(SqlClient.SqlClient, (sql) => open(sql, "jobs", "database"))

/** A new database for each test. */
const fresh = <A, E>(test: Effect.Effect<A, E, SqlClient.SqlClient | Postgres.Server | Scope.Scope>) =>
  Effect.scoped(Effect.provide(test, Layer.fresh(database), { local: true }))

/** The entry as the loop would have read it, last fired in 2026. */
const entryOf = Effect.fnUntraced(function* (name: string) {
  const { cron, database } = yield* node
  yield* cron.create(digest("* * * * * *", { name }))
  yield* database.run(`update jobs.cron_entries set last_fire = '2026-01-01'`)
  const { rows } = yield* make(database).load([])
  const row = rows.find((row) => row.name === name)
  if (row === undefined) throw new Error("The entry was not found")
  return row
})

const firer = Effect.map(node, ({ database }) => {
  const statements = make(database)
  return (row: TimingRow, instants: ReadonlyArray<number>) => statements.fire(row, undefined, instants)
})

const tick = (n: number) => Date.parse("2026-01-01T00:00:00Z") + n * 1_000
const seconds = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, n) => new Date(tick(from + n)).toISOString())

/** A clock that is wrong by so many milliseconds. Its sleeps are as long as they should be. */
const wrong = (millis: number): Clock.Clock => {
  const right = Clock.Clock.defaultValue()
  const nanos = BigInt(millis) * 1_000_000n
  return {
    currentTimeMillisUnsafe: () => right.currentTimeMillisUnsafe() + millis,
    currentTimeMillis: Effect.map(right.currentTimeMillis, (time) => time + millis),
    currentTimeNanosUnsafe: () => right.currentTimeNanosUnsafe() + nanos,
    currentTimeNanos: Effect.map(right.currentTimeNanos, (time) => time + nanos),
    monotonicTimeNanosUnsafe: () => right.monotonicTimeNanosUnsafe(),
    monotonicTimeNanos: right.monotonicTimeNanos,
    sleep: (duration) => right.sleep(duration)
  }
}

interface Check {
  readonly name: string
  readonly jobs: number
  readonly instants: number
  readonly early: number
  readonly lag: number
  /** Seconds between the first and the last, both included. */
  readonly span: number
}
/** What was fired, by entry: how often, for how many instants, how many of them early, and how late at most. */
const check = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => sql<Check>`
    select cron_name as name, count(*)::int as jobs, count(distinct cron_at)::int as instants,
           (count(*) filter (where cron_at > inserted_at))::int as early,
           (extract(epoch from max(inserted_at - cron_at)) * 1000)::float8 as lag,
           extract(epoch from max(cron_at) - min(cron_at))::int + 1 as span
      from jobs.jobs group by 1 order by 1`
)

describe.concurrent("the crontab on ten connections", () => {
  it.live("makes exactly one job of each instant, whoever is first", () =>
    fresh(
      Effect.gen(function* () {
        const row = yield* entryOf("race")
        const fire = yield* firer
        const { instants } = yield* node
        for (let n = 1; n <= 200; n++) {
          const fired = yield* Effect.all(
            Array.from({ length: 10 }, () => fire(row, [tick(n)])),
            { concurrency: 10 }
          )
          assert.strictEqual(fired.flat().length, 1)
        }
        assert.deepStrictEqual(yield* instants, seconds(1, 200))
        // Nor is there one of an instant that is yet to come, however wrong a node is about the time.
        assert.deepStrictEqual(yield* fire(row, [tick(1e9)]), [])
      })
    )
  )

  it.live("makes exactly one job of each instant, whatever each of them thinks is due", () =>
    fresh(
      Effect.gen(function* () {
        const row = yield* entryOf("race")
        const fire = yield* firer
        const { instants } = yield* node
        const statements = make((yield* node).database)
        // Each goes at its own pace, and wants up to seven instants at a time, as far as it knows what was fired.
        yield* Effect.all(
          Array.from({ length: 10 }, (_, racer) =>
            Effect.gen(function* () {
              for (let round = racer; ; round++) {
                const [read] = (yield* statements.load([])).rows
                const first = (Number(read?.last_fire ?? Number.NaN) - tick(0)) / 1_000 + 1
                if (first > 200) return
                const count = Math.min(1 + ((round * 3) % 7), 201 - first)
                yield* fire(
                  row,
                  Array.from({ length: count }, (_, more) => tick(first + more))
                )
              }
            })
          ),
          { concurrency: 10 }
        )
        assert.deepStrictEqual([...(yield* instants)].toSorted(), seconds(1, 200))
      })
    )
  )

  it.live("has another node fire when the first rolls back, and not when it commits", () =>
    fresh(
      Effect.gen(function* () {
        const row = yield* entryOf("race")
        const fire = yield* firer
        const { instants, sql } = yield* node
        for (let n = 1; n <= 40; n++) {
          const commits = n % 2 === 0
          const holds = yield* Deferred.make<void>()
          const ends = yield* Deferred.make<void>()
          const first = yield* Effect.forkChild(
            Effect.exit(
              sql.withTransaction(
                Effect.gen(function* () {
                  assert.strictEqual((yield* fire(row, [tick(n)])).length, 1)
                  yield* Deferred.succeed(holds, undefined)
                  yield* Deferred.await(ends)
                  if (!commits) return yield* Effect.fail("rolled back")
                })
              )
            )
          )
          yield* Deferred.await(holds)
          // It does not wait.
          assert.strictEqual((yield* fire(row, [tick(n)])).length, 0)
          yield* Deferred.succeed(ends, undefined)
          yield* Fiber.join(first)
          assert.strictEqual((yield* fire(row, [tick(n)])).length, commits ? 0 : 1)
        }
        assert.deepStrictEqual(yield* instants, seconds(1, 40))
      })
    )
  )

  it.live("keeps firing the others while a long transaction holds an entry, and that one when it has ended", () =>
    fresh(
      Effect.gen(function* () {
        const { cron, loop, made, sql, startNode } = yield* node
        for (const name of ["held", "free"]) yield* cron.create(digest("* * * * * *", { name, catchUp: { all: 100 } }))
        yield* cron.create(digest("@reboot", { name: "reboot" }))
        yield* sql`update jobs.cron_entries set last_fire = null where name = 'reboot'`
        const counts = Effect.map(made, (jobs) => (name: string) => jobs.filter((job) => job.name === name).length)
        const until = (name: string, count: number) =>
          Effect.gen(function* () {
            // Real time, because it is the database's.
            while ((yield* counts)(name) < count) yield* Effect.sleep("10 millis")
          })
        const holds = yield* Deferred.make<void>()
        const holder = yield* Effect.forkChild(
          Effect.exit(
            sql.withTransaction(
              Effect.gen(function* () {
                yield* cron.pause("held")
                yield* cron.pause("reboot")
                yield* Deferred.succeed(holds, undefined)
                yield* until("free", 3)
                const count = yield* counts
                assert.deepStrictEqual([count("held"), count("reboot")], [0, 0])
                return yield* Effect.fail("rolled back")
              })
            )
          )
        )
        yield* Deferred.await(holds)
        yield* startNode(1)
        const fiber = yield* Effect.forkChild(yield* loop([]))
        assert.deepStrictEqual(yield* Fiber.join(holder), Exit.fail("rolled back"))
        yield* until("held", 3)
        yield* until("reboot", 1)
        yield* Fiber.interrupt(fiber)
        for (const { name, ...found } of yield* check) {
          assert.deepInclude(found, { early: 0, instants: found.jobs, span: found.jobs }, name)
        }
      })
    )
  )

  it.live("registers the same entries from ten nodes at once", () =>
    fresh(
      Effect.gen(function* () {
        const { cron, database } = yield* node
        const statements = make(database)
        const entries = yield* prepareAll(
          Array.from({ length: 20 }, (_, n) => digest("@daily", { name: `entry ${n}` }))
        )
        for (let round = 0; round < 10; round++) {
          yield* Effect.all(
            Array.from({ length: 10 }, (_, racer) =>
              Effect.forEach(racer % 2 === 0 ? entries : entries.toReversed(), statements.register)
            ),
            { concurrency: 10 }
          )
        }
        assert.strictEqual((yield* cron.list).length, 20)
      })
    )
  )

  it.live("fires @reboot once for ten nodes that start at once", () =>
    fresh(
      Effect.gen(function* () {
        const one = yield* node
        for (let round = 0; round < 10; round++) {
          const nodes = Array.from({ length: 10 }, (_, n) => 1 + round * 10 + n)
          const fibers = yield* Effect.forEach(
            nodes,
            (n) =>
              Effect.gen(function* () {
                yield* one.startNode(n)
                const beats = Effect.forever(Effect.andThen(one.beat(n), Effect.sleep("5 millis")))
                const loop = yield* one.loop([digest("@reboot")], { node: { id: nodeId(n) } })
                return yield* Effect.forkScoped(Effect.race(beats, loop))
              }),
            { concurrency: 10 }
          )
          while ((yield* one.instants).length < round + 1) yield* Effect.sleep("10 millis")
          // Real time, because the others decide when they have heard of the first.
          yield* Effect.sleep("50 millis")
          for (const fiber of fibers) yield* Fiber.interrupt(fiber)
          yield* Effect.forEach(nodes, one.stopNode)
          assert.strictEqual((yield* one.instants).length, round + 1)
        }
      })
    )
  )

  it.live("fires neither early nor twice when the clocks of nodes are wrong by an hour", () =>
    fresh(
      Effect.gen(function* () {
        const entries = [digest("* * * * * *", { name: "seconds" })]
        const fibers = []
        for (const millis of [-3_600_000, 0, 3_600_000]) {
          const { loop } = yield* node
          fibers.push(yield* Effect.forkChild(Effect.provideService(yield* loop(entries), Clock.Clock, wrong(millis))))
        }
        // Real time, because it is the database's.
        yield* Effect.sleep("4500 millis")
        for (const fiber of fibers) yield* Fiber.interrupt(fiber)
        const [found] = yield* check
        assert.isDefined(found)
        assert.isAtLeast(found?.jobs ?? 0, 3)
        assert.deepInclude(found, { early: 0, instants: found?.jobs, span: found?.jobs })
      })
    )
  )

  it.live("loses no instant while its connections are killed again and again", () =>
    fresh(
      Effect.gen(function* () {
        const { loop, sql } = yield* node
        const [here] = yield* sql<{ readonly name: string }>`select current_database() as name`
        const url = (yield* Postgres.Server).url("postgres")
        const killer = yield* Effect.provide(Postgres.connect(url, { maxConnections: 1 }), Reactivity.layer)
        const entries = [
          digest("* * * * * *", { name: "skip" }),
          digest("* * * * * *", { name: "all", catchUp: { all: 100 } })
        ]
        const fibers = [yield* Effect.forkChild(yield* loop(entries)), yield* Effect.forkChild(yield* loop(entries))]
        // Real time, because it is the database's.
        for (let n = 0; n < 20; n++) {
          yield* Effect.sleep("200 millis")
          yield* killer`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${here?.name ?? ""}`
        }
        yield* Effect.sleep("2 seconds")
        for (const fiber of fibers) yield* Fiber.interrupt(fiber)
        for (const found of yield* check) {
          assert.isAtLeast(found.jobs, 4)
          assert.deepInclude(found, { early: 0, instants: found.jobs, span: found.jobs })
        }
        // What is logged of it is expected.
      }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
    )
  )
})
