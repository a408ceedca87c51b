import { assert, describe, it, layer } from "@effect/vitest"
import { PgClient } from "@effect/sql-pg"
import { Pglite, Postgres, PostgresError } from "@coppice/postgres"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Queue, Schedule, Stream } from "effect"
import { Migrator } from "effect/sql"
import { TestClock } from "effect/testing"

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index)

layer(Postgres.layerTest)("PostgreSQL on virtual time", (it) => {
  describe("many connections on one session", () => {
    it.effect("says which driver it is", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        assert.strictEqual(sql.driver, "pglite")
        assert.strictEqual(sql.withoutTransforms().driver, "pglite")
      })
    )

    it.effect("never mix their rows, also while a transaction is open", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const holder = yield* Effect.forkChild(
          sql.withTransaction(Effect.andThen(sql`select 0`, Effect.sleep("1 minute"))),
          { startImmediately: true }
        )
        const readers = yield* Effect.forkChild(
          Effect.forEach(
            numbers(300),
            (n) =>
              sql<{ readonly n: number; readonly text: string }>`select ${n}::int4 as n, ${`text ${n}`}::text as text`,
            { concurrency: 9 }
          ),
          { startImmediately: true }
        )
        yield* Pglite.settle
        assert.isUndefined(readers.pollUnsafe())
        yield* Pglite.advance("1 minute")
        const rows = yield* Fiber.join(readers)
        assert.deepStrictEqual(
          rows.flat(),
          numbers(300).map((n) => ({ n, text: `text ${n}` }))
        )
        yield* Fiber.join(holder)
      })
    )

    it.effect("run their transactions one after another, each whole", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const start = yield* Clock.currentTimeMillis
        const transaction = sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`select 1`
            yield* Effect.sleep("100 millis")
            yield* sql`select 2`
          })
        )
        const times = yield* Effect.forkChild(
          Effect.forEach(
            numbers(10),
            () =>
              Effect.andThen(
                transaction,
                Effect.map(Clock.currentTimeMillis, (now) => now - start)
              ),
            { concurrency: 10 }
          )
        )
        yield* Pglite.advance("1 second")
        assert.deepStrictEqual(
          (yield* Fiber.join(times)).toSorted((a, b) => a - b),
          numbers(10).map((n) => (n + 1) * 100)
        )
      })
    )

    it.effect("report the errors of a server, and go on", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        yield* sql`create table named(name text unique not null, age int4 check (age > 0))`
        yield* sql`insert into named values ('a', 1)`
        const reason = <A, E extends { readonly reason: { readonly _tag: string } }, R>(
          effect: Effect.Effect<A, E, R>
        ) => Effect.map(Effect.flip(effect), (error) => error.reason._tag)
        assert.strictEqual(yield* reason(sql`insert into named values ('a', 1)`), "UniqueViolation")
        assert.strictEqual(yield* reason(sql`insert into named values ('b', -1)`), "ConstraintError")
        assert.strictEqual(yield* reason(sql`insert into named values (${null}, 1)`), "ConstraintError")
        assert.strictEqual(yield* reason(sql`selec 1`), "SqlSyntaxError")
        assert.strictEqual(
          yield* reason(sql.withTransaction(Effect.ignore(sql`select 1 / 0`))),
          "UnknownError",
          "COMMIT of an aborted transaction"
        )
        assert.deepStrictEqual(yield* sql`select name from named`, [{ name: "a" }])
      })
    )

    it.effect("roll back a transaction that fails, dies or is interrupted", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        yield* sql`create table attempts(n int4)`
        const attempt = <E>(n: number, end: Effect.Effect<void, E>) =>
          sql.withTransaction(Effect.andThen(sql`insert into attempts values (${n})`, end))
        yield* Effect.exit(attempt(1, Effect.fail("no")))
        yield* Effect.exit(attempt(2, Effect.die("bug")))
        const fiber = yield* Effect.forkChild(attempt(3, Effect.never), { startImmediately: true })
        yield* Pglite.settle
        yield* Fiber.interrupt(fiber)
        yield* attempt(4, Effect.void)
        assert.deepStrictEqual(yield* sql`select n from attempts`, [{ n: 4 }])
      })
    )

    it.effect("refuse COPY, which the client does not speak, and go on", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        yield* sql`create table copied(n int4)`
        for (const copy of ["copy copied from stdin", "copy copied to stdout"]) {
          assert.isTrue(Exit.isFailure(yield* Effect.exit(sql.unsafe(copy))), copy)
          assert.deepStrictEqual(yield* sql`select count(*)::int4 as n from copied`, [{ n: 0 }])
        }
      })
    )

    it.effect("let a fiber that waits for its turn be interrupted", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const holder = yield* Effect.forkChild(sql.withTransaction(Effect.andThen(sql`select 1`, Effect.never)))
        yield* Pglite.settle
        const waiter = yield* Effect.forkChild(sql`create table never_made(n int4)`)
        yield* Pglite.settle
        yield* Fiber.interrupt(waiter)
        yield* Fiber.interrupt(holder)
        assert.deepStrictEqual(yield* sql`select to_regclass('never_made') as t`, [{ t: null }])
      })
    )

    it.effect("stream", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const rows = yield* Stream.runCollect(sql<{ readonly n: number }>`select generate_series(1, 5000) as n`.stream)
        assert.lengthOf(rows, 5000)
        assert.deepStrictEqual(
          yield* Stream.runCollect(Stream.take(sql`select generate_series(1, 5000) as n`.stream, 2)),
          [{ n: 1 }, { n: 2 }]
        )
        assert.deepStrictEqual(yield* sql`select 1 as n`, [{ n: 1 }])
      })
    )
  })

  describe("notifications", () => {
    it.effect("reach every listener when the transaction commits, and nobody when it does not", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const first = yield* sql.listen("news")
        const second = yield* sql.listen("news")
        const other = yield* sql.listen("other")
        yield* Effect.exit(
          sql.withTransaction(Effect.andThen(sql`select pg_notify('news', 'lost')`, Effect.fail("no")))
        )
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`select pg_notify('news', 'kept')`
            yield* Pglite.settle
            assert.strictEqual(yield* Queue.size(first), 0)
          })
        )
        assert.strictEqual((yield* Queue.take(first)).payload, "kept")
        assert.strictEqual((yield* Queue.take(second)).payload, "kept")
        assert.strictEqual(yield* Queue.size(first), 0)
        assert.strictEqual(yield* Queue.size(other), 0)
      })
    )

    it.effect("go on for one listener when another leaves, and come back for one that returns", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const stays = yield* sql.listen("steady")
        for (const round of ["1", "2", "3"]) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const comes = yield* sql.listen("steady")
              yield* sql.notify("steady", round)
              assert.strictEqual((yield* Queue.take(comes)).payload, round)
            })
          )
          yield* sql.notify("steady", `after ${round}`)
        }
        const heard = yield* Effect.forEach(numbers(6), () => Queue.take(stays))
        assert.deepStrictEqual(
          heard.map((notification) => notification.payload),
          ["1", "after 1", "2", "after 2", "3", "after 3"]
        )
      })
    )
  })

  describe("TestClock.adjust", () => {
    it.effect("includes every query of the fibers that it wakes", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        let polls = 0
        const poll = sql.withTransaction(
          Effect.andThen(
            sql`select 1`,
            Effect.sync(() => polls++)
          )
        )
        const fibers = yield* Effect.forEach(numbers(50), () =>
          Effect.forkChild(Effect.repeat(poll, Schedule.spaced("1 second")))
        )
        yield* Pglite.settle
        assert.strictEqual(polls, 50)
        yield* TestClock.adjust("60 seconds")
        assert.strictEqual(polls, 50 * 61)
        yield* Fiber.interruptAll(fibers)
      })
    )

    it.effect("does not expire connections", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const queue = yield* sql.listen("late")
        yield* Pglite.advance("30 days")
        yield* sql.notify("late", "still here")
        assert.strictEqual((yield* Queue.take(queue)).payload, "still here")
      })
    )
  })

  it.effect("runs Migrator's migrations once, although several fibers start them", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      const migrate = Migrator.make({})({
        loader: Migrator.fromRecord({
          "0001_trails": sql`create table trails(id bigserial primary key)`,
          "0002_title": sql`alter table trails add title text`
        })
      })
      const applied = yield* Effect.all([migrate, migrate, migrate], { concurrency: 3 })
      assert.deepStrictEqual(
        applied.map((migrations) => migrations.length).toSorted((a, b) => a - b),
        [0, 0, 2]
      )
    })
  )
})

describe("Pglite.layer", () => {
  it.effect("ends a transaction that waits for another connection with an error that explains it", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      const begun = yield* Deferred.make<void>()
      const other = yield* Effect.forkChild(Effect.andThen(Deferred.await(begun), Effect.flip(sql`select 2`)))
      const error = yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`select 1`
          yield* Deferred.succeed(begun, undefined)
          return yield* Fiber.join(other)
        })
      )
      assert.strictEqual(error.reason._tag, "LockTimeoutError")
      assert.include(Cause.pretty(Cause.fail(error)), "another connection's transaction has held it too long")
    }).pipe(Effect.provide(Pglite.layer({ waitLimit: "100 millis" })))
  )

  it.effect("fails with what to install when PGlite does not work", () =>
    Effect.gen(function* () {
      const create = () => Promise.reject(new Error("Cannot find package '@electric-sql/pglite'"))
      const exit = yield* Effect.exit(Effect.provide(Pglite.settle, Pglite.layer({ create })))
      assert(Exit.isFailure(exit))
      const error = exit.cause.reasons.find(Cause.isFailReason)?.error
      assert.instanceOf(error, PostgresError.PostgresUnavailable)
      assert.instanceOf(error.reason, PostgresError.PgliteMissing)
      assert.include(error.message, "npm install --save-dev --save-exact @electric-sql/pglite@0.5.16")
    })
  )
})
