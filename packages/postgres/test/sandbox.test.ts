import { assert, layer } from "@effect/vitest"
import { PgClient } from "@effect/sql-pg"
import { Pglite, Postgres, Sandbox } from "@coppice/postgres"
import { Effect, Fiber, Layer, Schedule, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"

const inSandbox = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provide(effect, Layer.fresh(Sandbox.layer), { local: true })

const insert = (n: number) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql`insert into numbers values (${n})`)

const numbers = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`create table if not exists numbers(n int4 primary key)`
  const rows = yield* sql<{ readonly n: number }>`select n from numbers order by n`
  return rows.map((row) => row.n)
})

layer(Postgres.layerTest)("a sandbox", (it) => {
  it.effect("undoes everything a test did, committed or not, tables included", () =>
    Effect.gen(function* () {
      for (let round = 0; round < 3; round++) {
        yield* inSandbox(
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient
            assert.deepStrictEqual(yield* numbers, [])
            yield* insert(1)
            yield* sql.withTransaction(insert(2))
            assert.deepStrictEqual(yield* numbers, [1, 2])
          })
        )
      }
      const sql = yield* SqlClient.SqlClient
      assert.deepStrictEqual(yield* sql`select to_regclass('numbers') as t`, [{ t: null }])
    })
  )

  it.effect("undoes a statement that fails, and nothing else", () =>
    inSandbox(
      Effect.gen(function* () {
        yield* numbers
        yield* insert(1)
        const error = yield* Effect.flip(insert(1))
        assert.strictEqual(error.reason._tag, "UniqueViolation")
        yield* insert(2)
        assert.deepStrictEqual(yield* numbers, [1, 2])
      })
    )
  )

  it.effect("undoes a transaction that fails, and the nested one only when only that fails", () =>
    inSandbox(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* numbers
        yield* Effect.exit(sql.withTransaction(Effect.andThen(insert(1), Effect.fail("no"))))
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* insert(2)
            yield* Effect.exit(sql.withTransaction(Effect.andThen(insert(3), Effect.die("bug"))))
            yield* insert(4)
          })
        )
        assert.deepStrictEqual(yield* numbers, [2, 4])
      })
    )
  )

  it.effect("fails a transaction that goes on after one of its statements failed, as a server does", () =>
    inSandbox(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* numbers
        const error = yield* Effect.flip(
          sql.withTransaction(Effect.andThen(Effect.ignore(sql`select 1 / 0`), insert(1)))
        )
        assert.include(String(Object(error.reason.cause).message), "current transaction is aborted")
        yield* Effect.flip(sql.withTransaction(Effect.andThen(insert(2), Effect.ignore(sql`select 1 / 0`))))
        assert.deepStrictEqual(yield* numbers, [])
      })
    )
  )

  it.effect("runs afterCommit when the transaction is released, and never when it fails", () =>
    inSandbox(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const log: Array<string> = []
        const say = (what: string) => Effect.sync(() => void log.push(what))
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql.afterCommit(Effect.andThen(say("committed"), Effect.orDie(sql`select 1`)))
            yield* sql.afterCommit(say("too"))
            yield* say("end")
          })
        )
        yield* Effect.exit(sql.withTransaction(Effect.andThen(sql.afterCommit(say("never")), Effect.fail("no"))))
        assert.deepStrictEqual(log, ["end", "committed", "too"])
      })
    )
  )

  it.effect("is shared by all fibers of a test, one transaction at a time", () =>
    inSandbox(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table counter as select 0 as n`
        const increment = sql.withTransaction(
          Effect.gen(function* () {
            const [row] = yield* sql<{ readonly n: number }>`select n from counter`
            yield* Effect.sleep("10 millis")
            yield* sql`update counter set n = ${(row?.n ?? 0) + 1}`
          })
        )
        const fiber = yield* Effect.forkChild(Effect.replicateEffect(increment, 20, { concurrency: 20 }))
        yield* Pglite.advance("200 millis")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* sql`select n from counter`, [{ n: 20 }])
      })
    )
  )

  it.effect("is part of TestClock.adjust", () =>
    inSandbox(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table polls (n int generated always as identity)`
        yield* Effect.forkScoped(Effect.repeat(sql`insert into polls default values`, Schedule.spaced("1 second")))
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* sql`select count(*)::int4 as count from polls`, [{ count: 61 }])
      })
    )
  )

  it.effect("goes on after a transaction was interrupted", () =>
    inSandbox(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* numbers
        const fiber = yield* Effect.forkChild(sql.withTransaction(Effect.andThen(insert(1), Effect.never)))
        yield* Pglite.settle
        yield* TestClock.adjust("1 minute")
        yield* Fiber.interrupt(fiber)
        yield* insert(2)
        assert.deepStrictEqual(yield* numbers, [2])
      })
    )
  )

  it.effect("survives streams that fail or are not read to their end", () =>
    inSandbox(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* numbers
        yield* insert(1)
        assert.lengthOf(yield* Stream.runCollect(Stream.take(sql`select generate_series(1, 1000)`.stream, 3)), 3)
        yield* Effect.flip(Stream.runDrain(sql`select 1 / (3 - n) from generate_series(1, 9) n`.stream))
        assert.deepStrictEqual(yield* numbers, [1])
      })
    )
  )

  it.effect("is what PgClient reaches as well", () =>
    inSandbox(
      Effect.gen(function* () {
        const pg = yield* PgClient.PgClient
        yield* numbers
        yield* pg`insert into numbers ${pg.insert([{ n: 1 }, { n: 2 }])}`
        assert.deepStrictEqual(yield* numbers, [1, 2])
        assert.deepStrictEqual(yield* pg`select ${pg.json({ a: [1] })} as json`, [{ json: { a: [1] } }])
        assert.strictEqual(pg.driver, "pglite")
        yield* pg.notify("nobody", "hears this")
      })
    )
  )
})
