import { assert, describe, layer } from "@effect/vitest"
import { Postgres } from "@coppice/postgres"
import { Deferred, Effect, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { Migrations } from "@coppice/jobs"
import * as Claim from "../src/internal/claim.ts"
import { node, open, partitionsOf, tally } from "./fixtures/queues.ts"
import { recorder } from "./fixtures/tables.ts"

const connections = 8
const tables = recorder.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({
      template: { name: "jobs", migrate: Migrations.run },
      pool: { maxConnections: connections + 2 }
    })
  )
)

const setUp = Effect.gen(function* () {
  const opened = yield* open
  yield* opened.database.run("truncate jobs.jobs, jobs.queues, jobs.rate_buckets, jobs.unique_keys")
  return { ...opened, sql: yield* SqlClient.SqlClient }
})

const times = <A>(count: number, value: A): ReadonlyArray<A> => Array.from({ length: count }, () => value)

/** So many connections at once, each so many rounds. */
const rounds = <A, E, R>(nodes: number, count: number, round: Effect.Effect<A, E, R>) =>
  Effect.forEach(Array.from({ length: nodes }), () => Effect.forEach(Array.from({ length: count }), () => round), {
    concurrency: nodes
  }).pipe(Effect.map((all) => all.flat()))

/** The most that it has ever seen executing at an instant, on a connection of its own, while something runs. */
const watching = <A, E, R>(effect: Effect.Effect<A, E, R>, group = "queue") =>
  Effect.gen(function* () {
    const { database } = yield* open
    let most = 0
    const watch = Effect.gen(function* () {
      for (;;) {
        const [row] = yield* database.run<{ readonly n: number }>(
          `select coalesce(max(n), 0)::int as n from (
             select count(*) as n from jobs.jobs where state = 'executing' group by ${group}) x`
        )
        most = Math.max(most, row?.n ?? 0)
      }
    })
    const watcher = yield* Effect.forkChild(watch)
    const result = yield* effect
    yield* Fiber.interrupt(watcher)
    return { result, most }
  })

layer(tables)("limits, with many claiming at once", (it) => {
  describe("the global limit", () => {
    it.effect(
      "is never exceeded, whoever claims, ends, loses and retries jobs meanwhile",
      () =>
        Effect.gen(function* () {
          const { add, claim, database, end, queues, sql } = yield* setUp
          yield* queues.limit("mail", { global: 3 })
          yield* add("mail", times(4_000, null))
          let n = 0
          const round = Effect.gen(function* () {
            const turn = n++
            // What the transaction of the claim itself sees, while nobody else can claim.
            const rows = yield* sql.withTransaction(
              Effect.gen(function* () {
                const { rows } = yield* claim("mail", 1 + (turn % 5))
                const [all] = yield* database.run<{ readonly n: number }>(
                  "select count(*)::int as n from jobs.jobs where state = 'executing'"
                )
                assert.isAtMost(all?.n ?? 0, 3)
                return rows
              })
            )
            const ids = rows.map((row) => row.id)
            // Every seventh node dies with what it has; whoever comes next rescues it.
            if (turn % 7 === 0) return ids
            yield* end(ids)
            yield* database.run(
              `update jobs.jobs set state = 'available', attempt = 0, leased_by = null where id in (
                 select id from jobs.jobs where state = 'executing' and attempted_at < statement_timestamp() - interval '20 ms'
                  order by id for no key update skip locked)`
            )
            return ids
          })
          const { most, result } = yield* watching(rounds(connections, 200, round))
          assert.strictEqual(most, 3)
          assert.isAbove(result.flat().length, 500)
          // All that was claimed was claimed by one alone, unless it was rescued.
          const [left] = yield* database.run<{ readonly n: number }>("select count(*)::int as n from jobs.jobs")
          assert.isAtLeast(new Set(result.flat()).size, 4_000 - (left?.n ?? 0))
        }),
      120_000
    )

    it.effect("would be exceeded by one statement that locks and counts", () =>
      Effect.gen(function* () {
        const { add, database, queues, sql } = yield* setUp
        yield* queues.limit("mail", { global: 2 })
        yield* add("mail", times(10, null))
        // The shape that the function is there to avoid.
        const naive = database.run(
          `with q as materialized (select global_limit from jobs.queues where name = 'mail' for update),
             n as materialized (select count(*) as n from jobs.jobs where state = 'executing' and queue = 'mail'),
             c as materialized (select id from jobs.jobs where state = 'available' order by id
               limit (select greatest(0, global_limit - n) from q, n) for no key update skip locked)
           update jobs.jobs j set state = 'executing', leased_by = '${node}' from c where j.id = c.id`
        )
        const held = yield* Deferred.make<void>()
        const first = yield* Effect.forkChild(
          sql.withTransaction(Effect.andThen(naive, Effect.andThen(Deferred.succeed(held, undefined), waiting(sql, 1))))
        )
        yield* Deferred.await(held)
        yield* naive
        yield* Fiber.join(first)
        const { executing } = yield* open
        assert.deepStrictEqual(yield* executing, { "": 4 })
      })
    )

    it.effect("holds for a claim that waited for one", () =>
      Effect.gen(function* () {
        const { add, claim, executing, queues, sql } = yield* setUp
        for (let round = 0; round < 20; round++) {
          yield* setUp
          yield* queues.limit("mail", { global: 2 })
          yield* add("mail", times(10, null))
          const held = yield* Deferred.make<void>()
          const first = yield* Effect.forkChild(
            sql.withTransaction(
              Effect.andThen(claim("mail", 5), Effect.andThen(Deferred.succeed(held, undefined), waiting(sql, 3)))
            )
          )
          yield* Deferred.await(held)
          const others = yield* Effect.all(times(3, claim("mail", 5)), { concurrency: 3 })
          yield* Fiber.join(first)
          assert.deepStrictEqual(yield* executing, { "": 2 })
          assert.deepStrictEqual(
            others.map(({ rows }) => rows.length),
            [0, 0, 0]
          )
        }
      })
    )

    it.effect("that is lowered while a claim waits holds for that claim", () =>
      Effect.gen(function* () {
        const { add, claim, queues, sql } = yield* setUp
        yield* queues.limit("mail", { global: 9 })
        yield* add("mail", times(10, null))
        const held = yield* Deferred.make<void>()
        const change = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.andThen(
              queues.limit("mail", { global: 1 }),
              Effect.andThen(Deferred.succeed(held, undefined), waiting(sql, 1))
            )
          )
        )
        yield* Deferred.await(held)
        assert.strictEqual((yield* claim("mail", 9)).rows.length, 1)
        yield* Fiber.join(change)
      })
    )
  })

  describe("a rate", () => {
    it.effect("is never exceeded by many at once", () =>
      Effect.gen(function* () {
        const { add, claim, database, end, queues } = yield* setUp
        yield* queues.limit("mail", { rate: { limit: 20, period: "100 millis" } })
        yield* add("mail", times(5_000, null))
        const started: Array<number> = []
        const round = Effect.gen(function* () {
          const { rows } = yield* claim("mail", 7)
          for (const row of rows) started.push(row.attempted_at.getTime())
          yield* end(rows.map((row) => row.id))
        })
        yield* rounds(4, 150, round)
        const [bucket] = yield* database.run<{ readonly tokens: number }>("select tokens from jobs.rate_buckets")
        assert.isAtLeast(bucket?.tokens ?? -1, -0.001)
        started.sort((a, b) => a - b)
        assert.isAbove(started.length, 20)
        // A full bucket and what was added meanwhile; times are whole milliseconds.
        for (let first = 0; first < started.length; first++) {
          for (let last = first; last < started.length; last++) {
            const elapsed = (started[last] ?? 0) - (started[first] ?? 0) + 1
            assert.isAtMost(last - first + 1, 20 + Math.ceil(elapsed / 5))
          }
        }
      })
    )
  })

  describe("limits per partition", () => {
    it.effect(
      "are never exceeded by many at once, and serve all alike",
      () =>
        Effect.gen(function* () {
          const { add, claim, end, queues } = yield* setUp
          yield* queues.limit("mail", { perPartition: 2, global: 12 })
          const tenants = Array.from({ length: 10 }, (_, n) => `t${n}`)
          yield* add(
            "mail",
            tenants.flatMap((tenant) => times(400, tenant))
          )
          yield* add("mail", times(2_000, "huge"))
          yield* add("mail", times(400, null))
          const served: Array<string> = []
          const round = Effect.gen(function* () {
            const { rows } = yield* claim("mail", 3)
            const ids = rows.map((row) => row.id)
            served.push(...(yield* partitionsOf(ids)))
            yield* end(ids)
          })
          const { most } = yield* watching(rounds(connections, 60, round), "partition_key")
          assert.isAtMost(most, 2)
          const counts = Object.values(tally(served))
          assert.strictEqual(counts.length, 12)
          // Which of those that have waited is free when somebody claims is chance; that all have their turn is not.
          assert.isAbove(Math.min(...counts), 0.6 * Math.max(...counts))
        }),
      60_000
    )
  })

  describe("a claim within limits", () => {
    it.effect("keeps no other queue's claims, and no enqueueing", () =>
      Effect.gen(function* () {
        const { add, claim, database, queues, sql } = yield* setUp
        yield* queues.limit("mail", { global: 5 })
        yield* queues.limit("other", { global: 5 })
        yield* add("mail", times(5, null))
        yield* add("other", times(5, null))
        yield* add("plain", times(5, null))
        const held = yield* Deferred.make<void>()
        const done = yield* Deferred.make<void>()
        const holder = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.gen(function* () {
              assert.strictEqual((yield* claim("mail", 2)).rows.length, 2)
              yield* Deferred.succeed(held, undefined)
              yield* Deferred.await(done)
            })
          )
        )
        yield* Deferred.await(held)
        assert.strictEqual((yield* claim("other", 9)).rows.length, 5)
        yield* add("mail", times(5, null))
        assert.strictEqual((yield* Claim.make(database)("plain", 9, node, new Claim.Marks().after(true), [])).length, 5)
        assert.strictEqual((yield* queues.queues).length, 3)
        yield* Deferred.succeed(done, undefined)
        yield* Fiber.join(holder)
      })
    )

    it.effect("goes past jobs that somebody has locked, in their partition too", () =>
      Effect.gen(function* () {
        const { add, claim, database, queues, sql } = yield* setUp
        yield* queues.limit("mail", { perPartition: 5 })
        const [a, b, none] = yield* add("mail", ["a", "b", null])
        const others = yield* add("mail", ["a", "a", null])
        const held = yield* Deferred.make<void>()
        const done = yield* Deferred.make<void>()
        const locker = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* database.run("select from jobs.jobs where id = any($1::float8[]) for update", [[a, b, none]])
              yield* Deferred.succeed(held, undefined)
              yield* Deferred.await(done)
            })
          )
        )
        yield* Deferred.await(held)
        const { rows } = yield* claim("mail", 10)
        assert.sameMembers(
          rows.map((row) => row.id),
          others
        )
        yield* Deferred.succeed(done, undefined)
        yield* Fiber.join(locker)
        assert.sameMembers(
          (yield* claim("mail", 10)).rows.map((row) => row.id),
          [a, b, none]
        )
      })
    )

    it.effect("is refused in a transaction that does not see what others have done since it began", () =>
      Effect.gen(function* () {
        const { claim, database, sql } = yield* setUp
        for (const level of ["repeatable read", "serializable"]) {
          const error = yield* Effect.flip(
            sql.withTransaction(
              Effect.andThen(database.run(`set transaction isolation level ${level}`), claim("mail", 1))
            )
          )
          const { cause } = error.reason
          assert.include(cause instanceof Error ? cause.message : "", `in a ${level.toUpperCase()} transaction`)
        }
      })
    )
  })
})

/** Until so many others wait for a lock. */
const waiting = (sql: SqlClient.SqlClient, count: number) =>
  Effect.gen(function* () {
    for (;;) {
      const found = yield* sql`
        select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
      if (found.length >= count) return
      yield* Effect.yieldNow
    }
  })
