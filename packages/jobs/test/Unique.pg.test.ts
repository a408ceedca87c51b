import type { NewJob } from "@coppice/jobs"
import { assert, describe, layer } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import { SqlClient } from "effect/sql"
import { isSqlError } from "effect/sql/SqlError"
import { isDeepStrictEqual } from "node:util"
import { releaseKeys } from "../src/internal/columns.ts"
import { Anything, counts, idOf, read, Real, setUp } from "./fixtures/enqueue.ts"

const rounds = 50

/** A unique job; those of the same name are the same. */
const job = (name: string, unique: NewJob.Unique<string> = {}) => Anything.job(name, { unique })

/** Runs something in a transaction that stays open until it is told how to end. */
const opened = Effect.fnUntraced(function* <A, E>(effect: Effect.Effect<A, E>) {
  const sql = yield* SqlClient.SqlClient
  const begun = yield* Deferred.make<A, E>()
  const end = yield* Deferred.make<void, "rolled back">()
  const fiber = yield* Effect.forkChild(
    sql.withTransaction(
      Effect.andThen(effect.pipe(Effect.onExit((exit) => Deferred.done(begun, exit))), Deferred.await(end))
    )
  )
  return {
    value: yield* Deferred.await(begun),
    commit: Effect.andThen(Deferred.succeed(end, undefined), Fiber.join(fiber)),
    rollBack: Effect.andThen(Deferred.fail(end, "rolled back"), Fiber.await(fiber))
  }
})

/** Waits until so many connections wait for a lock, and have for some time. */
const waiting = Effect.fnUntraced(function* (count: number, millis = 0) {
  const sql = yield* SqlClient.SqlClient
  for (;;) {
    const [row] = yield* sql<{ readonly waiting: number }>`
      select count(*)::int as waiting from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock'
         and query_start < clock_timestamp() - ${millis} * interval '1 millisecond'`
    if ((row?.waiting ?? 0) >= count) return
    yield* Effect.yieldNow
  }
})

layer(Real)("unique jobs on several connections", (it) => {
  it.effect(`are inserted once by 20 that want them at once, in ${rounds} rounds`, () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      for (let round = 0; round < rounds; round++) {
        const results = yield* Effect.replicateEffect(enqueue(job(`race ${round}`)), 20, { concurrency: 5 })
        const inserted = results.filter(({ _tag }) => _tag === "Inserted")
        const conflicts = results.filter(({ _tag }) => _tag === "Conflict")
        assert.deepStrictEqual([inserted.length, conflicts.length], [1, 19])
        assert.deepStrictEqual(new Set(results.map(idOf)).size, 1)
      }
    })
  )

  it.effect(`are taken over once when they have expired, by 20 at once, in ${rounds} rounds`, () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      // A period that is over when the first has been inserted, and one that is not over during the test.
      for (let round = 0; round < rounds; round++) {
        const old = idOf(yield* enqueue(job(`expired ${round}`, { period: 0.001 })))
        const results = yield* Effect.replicateEffect(enqueue(job(`expired ${round}`, { period: "1 hour" })), 20, {
          concurrency: 5
        })
        assert.strictEqual(results.filter(({ _tag }) => _tag === "Inserted").length, 1)
        const ids = new Set(results.map(idOf))
        assert.strictEqual(ids.size, 1)
        assert.isFalse(ids.has(old))
      }
    })
  )

  it.effect("wait for a transaction that has inserted the same, and conflict when it commits", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      for (let round = 0; round < rounds; round++) {
        const winner = yield* opened(enqueue(job(`commit ${round}`)))
        const losers = yield* Effect.forkChild(
          Effect.replicateEffect(enqueue(job(`commit ${round}`)), 3, { concurrency: 3 })
        )
        yield* waiting(3)
        yield* winner.commit
        const expected = { _tag: "Conflict", id: idOf(winner.value), replaced: false }
        assert.deepStrictEqual(yield* Fiber.join(losers), [expected, expected, expected] as never)
      }
    })
  )

  it.effect("wait for a transaction that has inserted the same, and are inserted when it rolls back", () =>
    Effect.gen(function* () {
      const { enqueue } = yield* setUp
      for (let round = 0; round < rounds; round++) {
        const winner = yield* opened(enqueue(job(`rollback ${round}`)))
        const losers = yield* Effect.forkChild(
          Effect.replicateEffect(enqueue(job(`rollback ${round}`)), 3, { concurrency: 3 })
        )
        yield* waiting(3)
        yield* winner.rollBack
        const results = yield* Fiber.join(losers)
        assert.strictEqual(results.filter(({ _tag }) => _tag === "Inserted").length, 1)
        assert.strictEqual(new Set(results.map(idOf)).size, 1)
        assert.strictEqual((yield* read(idOf(results[0] ?? { _tag: "" }))).state, "available")
      }
    })
  )

  for (const level of ["repeatable read", "serializable"]) {
    it.effect(`that lose a race at ${level} say so with 40001, and the winner is there`, () =>
      Effect.gen(function* () {
        const { enqueue, sql } = yield* setUp
        for (let round = 0; round < rounds; round++) {
          const name = `${level} ${round}`
          const snapshot = yield* Deferred.make<void>()
          const committed = yield* Deferred.make<void>()
          const loser = yield* Effect.forkChild(
            sql.withTransaction(
              Effect.gen(function* () {
                yield* sql.unsafe(`set transaction isolation level ${level}`)
                yield* sql`select count(*) from jobs.jobs`
                yield* Deferred.succeed(snapshot, undefined)
                yield* Deferred.await(committed)
                return yield* enqueue(job(name))
              })
            )
          )
          yield* Deferred.await(snapshot)
          const winner = idOf(yield* enqueue(job(name)))
          yield* Deferred.succeed(committed, undefined)
          const exit = yield* Fiber.await(loser)
          const error = Exit.isFailure(exit) ? exit.cause.reasons.find(({ _tag }) => _tag === "Fail") : undefined
          const failure = error?._tag === "Fail" ? error.error : undefined
          assert.isTrue(isSqlError(failure) && failure.reason._tag === "SerializationError")
          assert.deepInclude(yield* enqueue(job(name)), { _tag: "Conflict", id: winner })
        }
      })
    )
  }

  it.effect("conflict at repeatable read with what was there before", () =>
    Effect.gen(function* () {
      const { enqueue, sql } = yield* setUp
      const id = idOf(yield* enqueue(job("before")))
      const result = yield* sql.withTransaction(
        Effect.andThen(sql`set transaction isolation level repeatable read`, enqueue(job("before")))
      )
      assert.deepInclude(result, { _tag: "Conflict", id })
    })
  )

  it.effect(
    "in batches of opposite order do not deadlock, whether their keys are new, taken or expired",
    () =>
      Effect.gen(function* () {
        const { enqueueMany } = yield* setUp
        for (let round = 0; round < rounds; round++) {
          const names = Array.from({ length: 100 }, (_, index) => `batch ${round} ${index}`)
          // Every third has expired already, and every third is taken.
          yield* enqueueMany(names.filter((_, index) => index % 3 === 0).map((name) => job(name, { period: 0.001 })))
          yield* enqueueMany(names.filter((_, index) => index % 3 === 1).map((name) => job(name)))
          const jobs = names.map((name) => job(name, { period: "1 hour" }))
          const all = yield* Effect.forEach([jobs, jobs.toReversed(), jobs, jobs.toReversed()], enqueueMany, {
            concurrency: 4
          })
          const [a = [], b = [], c = [], d = []] = all
          for (const [index] of names.entries()) {
            const mine = [a[index], b[99 - index], c[index], d[99 - index]]
            const inserted = mine.filter((result) => result?._tag === "Inserted").length
            assert.strictEqual(inserted, index % 3 === 1 ? 0 : 1)
            assert.strictEqual(new Set(mine.map((result) => idOf(result ?? { _tag: "" }))).size, 1)
          }
        }
      }),
    60_000
  )

  it.effect("in large batches of opposite order do not deadlock", () =>
    Effect.gen(function* () {
      const { enqueueMany } = yield* setUp
      for (let round = 0; round < 10; round++) {
        const jobs = Array.from({ length: 1_000 }, (_, index) => job(`large ${round} ${index}`))
        const all = yield* Effect.forEach([jobs, jobs.toReversed()], enqueueMany, { concurrency: 2 })
        assert.strictEqual(all.flat().filter(({ _tag }) => _tag === "Inserted").length, 1_000)
      }
    })
  )

  it.effect("in batches of opposite order replace existing jobs whole, and do not deadlock", () =>
    Effect.gen(function* () {
      const { enqueueMany } = yield* setUp
      for (let round = 0; round < 20; round++) {
        const names = Array.from({ length: 100 }, (_, index) => `replace ${round} ${index}`)
        const replace = { available: ["tags", "meta"] as const }
        const batch = (by: string) =>
          names.map((name) => Anything.job(name, { tags: [by], meta: { by }, unique: { replace } }))
        const first = yield* enqueueMany(batch("nobody"))
        const all = yield* Effect.forEach(
          [batch("a"), batch("b").toReversed(), batch("c"), batch("d").toReversed()],
          enqueueMany,
          { concurrency: 4 }
        )
        assert.isTrue(all.flat().every((result) => result._tag === "Conflict" && result.replaced))
        const whole = yield* Effect.forEach(first, (result) => read(idOf(result)))
        assert.isTrue(whole.every(({ meta, tags }) => tags[0] !== "nobody" && isDeepStrictEqual(meta, { by: tags[0] })))
      }
    })
  )

  it.effect("find the key of a job that ends while they ask for it", () =>
    Effect.gen(function* () {
      const { enqueue, sql } = yield* setUp
      const end = Effect.fnUntraced(function* (id: number) {
        yield* sql`with gone as (delete from jobs.jobs where id = ${id})
          delete from jobs.unique_keys where job_id = ${id}`
      })
      for (let round = 0; round < rounds; round++) {
        const first = idOf(yield* enqueue(job(`end ${round}`)))
        const [results] = yield* Effect.all(
          [Effect.replicateEffect(enqueue(job(`end ${round}`)), 6, { concurrency: 4 }), end(first)],
          { concurrency: 2 }
        )
        const others = new Set(results.map(idOf).filter((id) => id !== first))
        assert.isTrue(others.size <= 1)
        assert.strictEqual(results.filter(({ _tag }) => _tag === "Inserted").length, others.size)
      }
    })
  )

  it.effect("that take an expired key over in a long transaction do not hold up the job that had it", () =>
    Effect.gen(function* () {
      const { database, enqueue, enqueueMany } = yield* setUp
      const [first, second] = yield* enqueueMany([job("over", { period: 0.001 }), job("kept", { period: "1 hour" })])
      const other = yield* opened(enqueue(job("over", { period: "1 hour" })))
      // As the engine ends them: keys go in the statement that moves the jobs.
      const ids = [first, second].map((result) => idOf(result ?? { _tag: "" }))
      yield* database.timed(
        `with moved as (delete from jobs.jobs where id = any($2::text::bigint[]) returning id, unique_key)
         ${releaseKeys(database.schema, "moved", "'cancelled'")}`,
        [`{${ids.join(",")}}`]
      )
      yield* other.commit
      assert.deepInclude(yield* enqueue(job("over")), { _tag: "Conflict", id: idOf(other.value) })
      assert.strictEqual((yield* enqueue(job("kept")))._tag, "Inserted")
    })
  )

  describe("when another transaction is just inserting the same", () => {
    it.effect("are skipped, or fail, and their mates are not harmed", () =>
      Effect.gen(function* () {
        const { enqueue, enqueueMany } = yield* setUp
        const other = yield* opened(enqueueMany([job("busy 3"), job("busy 7")]))
        const [taken] = yield* enqueueMany([job("busy taken")])
        assert.deepStrictEqual(yield* enqueue(job("busy 3", { onBusy: "skip" })), { _tag: "Busy" })
        const error = yield* Effect.flip(enqueue(job("busy 7", { onBusy: "error" })))
        assert.strictEqual(error._tag, "UniqueBusy")
        assert.include(error.message, "Another transaction is just inserting the same unique job for Anything")
        const jobs = Array.from({ length: 10 }, (_, index) =>
          job(`busy ${index}`, { onBusy: index % 2 === 0 ? "skip" : "error" })
        )
        const results = yield* enqueueMany([
          ...jobs,
          job("busy 3", { onBusy: "skip" }),
          job("busy taken", { onBusy: "skip" }),
          Anything.job("not unique")
        ])
        assert.deepStrictEqual(
          results.map((result) => (result._tag === "Rejected" ? result.error._tag : result._tag)),
          [
            "Inserted",
            "Inserted",
            "Inserted",
            "UniqueBusy",
            "Inserted",
            "Inserted",
            "Inserted",
            "UniqueBusy",
            "Inserted",
            "Inserted",
            "Busy",
            "Conflict",
            "Inserted"
          ]
        )
        assert.strictEqual(idOf(results[11] ?? { _tag: "" }), idOf(taken ?? { _tag: "" }))
        yield* other.rollBack
        assert.strictEqual((yield* enqueue(job("busy 3", { onBusy: "skip" })))._tag, "Inserted")
        assert.strictEqual((yield* enqueue(job("busy 3", { onBusy: "error" })))._tag, "Conflict")
      })
    )

    it.effect("leave the user's lock_timeout as it was, and the transaction usable", () =>
      Effect.gen(function* () {
        const { enqueue, enqueueMany, sql } = yield* setUp
        const timeout = Effect.map(
          sql<{ readonly lock_timeout: string }>`show lock_timeout`,
          ([row]) => row?.lock_timeout
        )
        const other = yield* opened(enqueue(job("timeout")))
        yield* sql.withTransaction(
          Effect.gen(function* () {
            assert.strictEqual(yield* timeout, "0")
            yield* enqueue(job("timeout", { onBusy: "skip" }))
            assert.strictEqual(yield* timeout, "0")
            yield* sql`set local lock_timeout = '7s'`
            yield* enqueue(job("timeout", { onBusy: "skip" }))
            assert.strictEqual(yield* timeout, "7s")
            yield* Effect.flip(enqueue(job("timeout", { onBusy: "error" })))
            assert.strictEqual(yield* timeout, "7s")
            yield* enqueue(job("free", { onBusy: "error" }))
            assert.strictEqual(yield* timeout, "7s")
            yield* enqueueMany([job("timeout", { onBusy: "error" }), job("free 2", { onBusy: "skip" })])
            assert.strictEqual(yield* timeout, "7s")
          })
        )
        assert.strictEqual(yield* timeout, "0")
        yield* other.commit
        assert.strictEqual((yield* enqueue(job("free", { onBusy: "skip" })))._tag, "Conflict")
      })
    )

    it.effect("that wait do so although mates of theirs do not", () =>
      Effect.gen(function* () {
        const { enqueue, enqueueMany } = yield* setUp
        const other = yield* opened(enqueue(job("mixed")))
        const fiber = yield* Effect.forkChild(
          enqueueMany([
            job("mixed", { onBusy: "skip" }),
            job("mixed", { onBusy: "wait" }),
            job("mixed", { onBusy: "error" })
          ])
        )
        // Longer than those wait that do not.
        yield* waiting(1, 100)
        yield* other.rollBack
        const results = yield* Fiber.join(fiber)
        assert.deepStrictEqual(
          results.map((result) => (result._tag === "Rejected" ? result.error._tag : result._tag)),
          ["Busy", "Inserted", "UniqueBusy"]
        )
      })
    )

    it.effect("are not skipped for the sake of a transaction that only locks the table of jobs", () =>
      Effect.gen(function* () {
        const { enqueue, sql } = yield* setUp
        const other = yield* opened(sql`lock table jobs.jobs in share mode`)
        const fiber = yield* Effect.forkChild(Effect.exit(enqueue(job("table lock", { onBusy: "skip" }))))
        const exit = yield* Fiber.join(fiber)
        assert.isTrue(Exit.isFailure(exit))
        yield* other.commit
        assert.strictEqual((yield* enqueue(job("table lock", { onBusy: "skip" })))._tag, "Inserted")
      })
    )
  })

  it.effect("leave no key without a job behind", () =>
    Effect.gen(function* () {
      const { sql } = yield* setUp
      const { keys } = yield* counts
      const orphans =
        yield* sql`select 1 from jobs.unique_keys u where not exists (select from jobs.jobs j where j.id = u.job_id)`
      assert.deepStrictEqual([keys > 0, orphans.length], [true, 0])
    })
  )
})
