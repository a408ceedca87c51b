import { assert, describe, it, layer } from "@effect/vitest"
import { PgClient } from "@effect/sql-pg"
import { Postgres, PostgresError, Sandbox } from "@coppice/postgres"
import { ConfigProvider, Effect, Fiber, Layer, Queue, Redacted } from "effect"
import { Migrator, SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"

let migrated = 0
const migrate = Effect.gen(function* () {
  migrated++
  yield* Migrator.make({})({
    loader: Migrator.fromRecord({
      "0001_items": Effect.flatMap(SqlClient.SqlClient, (sql) => sql`create table items(n int4 primary key)`)
    })
  })
})
const items = Postgres.layerTestDatabase({ template: { name: "items", migrate } })

const insert = (n: number) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql`insert into items values (${n})`)
const all = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ readonly n: number }>`select n from items order by n`
  return rows.map((row) => row.n)
})

describe("layerTestDatabase", () => {
  it.live("gives every layer a database of its own, migrated once", () =>
    Effect.gen(function* () {
      const one = yield* Layer.build(Layer.fresh(items))
      const other = yield* Layer.build(Layer.fresh(items))
      yield* Effect.provideContext(insert(1), one)
      yield* Effect.provideContext(insert(2), other)
      assert.deepStrictEqual(yield* Effect.provideContext(all, one), [1])
      assert.deepStrictEqual(yield* Effect.provideContext(all, other), [2])
      assert.isAtMost(migrated, 1)
    }).pipe(Effect.scoped)
  )

  it.live("drops the database with its scope", () =>
    Effect.gen(function* () {
      const name = Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const [row] = yield* sql<{ readonly name: string }>`select current_database() as name`
        return row?.name ?? ""
      })
      const gone = yield* Effect.provide(name, Postgres.layerTestDatabase())
      const sql = Effect.flatMap(
        SqlClient.SqlClient,
        (sql) => sql`select datname from pg_database where datname = ${gone}`
      )
      assert.deepStrictEqual(yield* Effect.provide(sql, Postgres.layerTestDatabase()), [])
    })
  )

  it.live("prepares a template once, although many ask for it at the same time", () =>
    Effect.gen(function* () {
      let prepared = 0
      const template = {
        name: "slow",
        migrate: Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          prepared++
          yield* sql`create table slow as select 1 as n from pg_sleep(0.05)`
        })
      }
      const count = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`select 1 from slow`)
      const found = yield* Effect.all(
        Array.from({ length: 4 }, () =>
          Effect.provide(count, Layer.fresh(Postgres.layerTestDatabase({ template })), { local: true })
        ),
        { concurrency: 4 }
      )
      assert.deepStrictEqual(
        found.map((rows) => rows.length),
        [1, 1, 1, 1]
      )
      assert.strictEqual(prepared, 1)
    })
  )

  it.live("fails as the migrations do, and leaves the template to the next who tries", () =>
    Effect.gen(function* () {
      const broken = { name: "broken", migrate: Effect.fail("no such table" as const) }
      const error = yield* Effect.flip(Effect.provide(all, Postgres.layerTestDatabase({ template: broken })))
      assert.strictEqual(error, "no such table")
      const fixed = { name: "broken", migrate }
      assert.deepStrictEqual(yield* Effect.provide(all, Postgres.layerTestDatabase({ template: fixed })), [])
    })
  )

  it.live("tells templates apart whatever they are called, and however long", () =>
    Effect.gen(function* () {
      const names = ["a-name-that-is-longer-than-what-is-left-of-63-bytes", `it's "quoted"`]
      for (const name of names.flatMap((name) => [`${name}-1`, `${name}-2`, `${name}-1`])) {
        const template = {
          name,
          migrate: Effect.flatMap(SqlClient.SqlClient, (sql) => sql`create table made as select ${name}::text as by`)
        }
        const made = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`select by from made`)
        const layer = Layer.fresh(Postgres.layerTestDatabase({ template }))
        assert.deepStrictEqual(yield* Effect.provide(made, layer, { local: true }), [{ by: name }])
      }
    })
  )

  it.live("does not get in the way of other threads of the process", () =>
    Effect.gen(function* () {
      const another = "../src/TestDatabase.ts?another-thread"
      const { layer: inAnotherThread } = yield* Effect.promise(
        (): Promise<{ readonly layer: typeof Postgres.layerTestDatabase }> => import(another)
      )
      // Each thread has a module of its own, and counts for itself.
      yield* Effect.all(
        Array.from({ length: 3 }, () =>
          Effect.andThen(
            Layer.build(Layer.fresh(Postgres.layerTestDatabase())),
            Layer.build(Layer.fresh(inAnotherThread()))
          )
        ),
        { discard: true }
      )
    }).pipe(Effect.scoped)
  )

  it.live("tells child processes where it is", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Server
      yield* insert(7)
      const child = Layer.provide(
        Postgres.layer,
        ConfigProvider.layer(ConfigProvider.fromUnknown({ DATABASE_URL: Redacted.value(url()) }))
      )
      assert.deepStrictEqual(yield* Effect.provide(all, Layer.fresh(child), { local: true }), [7])
    }).pipe(Effect.provide(items))
  )

  it.live("says what to add to the vitest configuration when there is no server", () =>
    Effect.gen(function* () {
      const nothing = ConfigProvider.layer(ConfigProvider.fromUnknown({}))
      const error = yield* Effect.flip(Effect.provide(all, Layer.provide(Postgres.layerTestDatabase(), nothing)))
      assert.instanceOf(error, PostgresError.PostgresUnavailable)
      assert.include(error.message, `globalSetup: ["@coppice/postgres/testing/global-setup"]`)
    })
  )
})

layer(items)("a real server under the test clock", (it) => {
  it.effect("runs transactions side by side", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      const first = yield* Queue.unbounded<void>()
      const second = yield* Queue.unbounded<void>()
      // Each waits inside its transaction until the other is inside as well.
      const meet = (mine: Queue.Queue<void>, theirs: Queue.Queue<void>) =>
        sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`select 1`
            yield* Queue.offer(mine, undefined)
            yield* Queue.take(theirs)
          })
        )
      yield* Effect.all([meet(first, second), meet(second, first)], { concurrency: 2 })
    })
  )

  it.effect("keeps its connections however far the clock moves", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      const queue = yield* sql.listen("late")
      const connecting = yield* Effect.forkChild(
        Effect.forEach([1, 2, 3, 4], () => sql`select pg_backend_pid() as pid`, { concurrency: 4 })
      )
      yield* TestClock.adjust("1 day")
      assert.lengthOf(yield* Fiber.join(connecting), 4)
      yield* sql`select pg_notify('late', 'still here')`
      assert.strictEqual((yield* Queue.take(queue)).payload, "still here")
    })
  )

  it.effect("is left as it was by a sandbox", () =>
    Effect.gen(function* () {
      for (let round = 0; round < 3; round++) {
        yield* Effect.provide(insert(1), Layer.fresh(Sandbox.layer), { local: true })
        assert.deepStrictEqual(yield* all, [])
      }
    })
  )
})

describe("Migrator", () => {
  it.live("runs migrations once when two nodes start at the same time", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Server
      const config = ConfigProvider.layer(ConfigProvider.fromUnknown({ DATABASE_URL: Redacted.value(url()) }))
      const node = Layer.fresh(Layer.provide(Postgres.layer, config))
      const run = Migrator.make({})({
        loader: Migrator.fromRecord({
          "0001_nodes": Effect.flatMap(
            SqlClient.SqlClient,
            (sql) => sql`create table nodes as select 1 as n from pg_sleep(0.05)`
          ),
          "0002_more": Effect.flatMap(SqlClient.SqlClient, (sql) => sql`create table more(n int4)`)
        })
      })
      const applied = yield* Effect.all(
        Array.from({ length: 4 }, () => Effect.provide(run, node, { local: true })),
        { concurrency: 4 }
      )
      assert.deepStrictEqual(
        applied.map((migrations) => migrations.length).toSorted((a, b) => a - b),
        [0, 0, 0, 2]
      )
    }).pipe(Effect.provide(Postgres.layerTestDatabase()))
  )
})
