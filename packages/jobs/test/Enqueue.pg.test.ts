import { Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import { SqlClient } from "effect/sql"
import { Anything, counts, idOf, Mail, read, Real, setUp, Sync } from "./fixtures/enqueue.ts"

/** The service with what is tested here, for the effects of workers. */
const withJobs = Effect.fnUntraced(function* <A, E, R>(effect: Effect.Effect<A, E, R | Jobs.Jobs>) {
  const { enqueue, enqueueMany } = yield* setUp
  // Nothing else of the service is used.
  const service = { enqueue, enqueueMany } as Jobs.Shape
  return yield* Effect.provideService(effect, Jobs.Jobs, service)
})

layer(Real)("enqueue on several connections", (it) => {
  it.effect("in a transaction is seen by others when it commits, and not before", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      for (let round = 0; round < 20; round++) {
        const written = yield* Deferred.make<number>()
        const go = yield* Deferred.make<void>()
        const fiber = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.gen(function* () {
              const id = idOf(yield* withJobs(Mail.enqueue({ to: "ada" })))
              yield* withJobs(Sync.enqueueMany([{ account: round }]))
              yield* Deferred.succeed(written, id)
              yield* Deferred.await(go)
            })
          )
        )
        const id = yield* Deferred.await(written)
        assert.deepStrictEqual(yield* sql`select id from jobs.jobs where id >= ${id}`, [])
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(fiber)
        assert.strictEqual((yield* sql`select id from jobs.jobs where id >= ${id}`).length, 2)
      }
    })
  )

  it.effect(
    "tells of jobs after the commit of the outermost transaction, and nothing of a savepoint that is gone",
    () =>
      Effect.gen(function* () {
        const { enqueue, enqueueMany, events, signals, sql } = yield* setUp
        const { jobs } = yield* counts
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* Effect.flip(
              sql.withTransaction(Effect.andThen(enqueue(Mail.job({ to: "gone" })), Effect.fail("no")))
            )
            yield* sql.withTransaction(enqueueMany([Mail.job({ to: "a" }), Mail.job({ to: "b" }, { queue: "other" })]))
            assert.deepStrictEqual([events.length, signals.length], [0, 0])
          })
        )
        assert.deepStrictEqual([events.length, signals.length], [2, 2])
        assert.strictEqual((yield* counts).jobs, jobs + 2)
      })
  )

  it.effect("goes by the clock of the database", () =>
    Effect.gen(function* () {
      const { enqueue, sql } = yield* setUp
      // This process believes that it is 1970.
      const id = idOf(yield* enqueue(Mail.job({ to: "ada" }, { scheduleIn: "1 hour" })))
      const [row] = yield* sql`
        select state, scheduled_at - inserted_at = interval '1 hour' as hour, queued_at = inserted_at::timestamptz(3) as same,
               inserted_at between statement_timestamp() - interval '1 minute' and statement_timestamp() as now
          from jobs.jobs where id = ${id}`
      assert.deepStrictEqual({ ...row }, { state: "scheduled", hour: true, same: true, now: true })
    })
  )

  it.effect("takes 100,000 jobs at once, and answers in order", () =>
    Effect.gen(function* () {
      const { enqueueMany, events, signals, sql } = yield* setUp
      const count = 100_000
      const results = yield* enqueueMany(Array.from({ length: count }, (_, index) => Mail.job({ to: `${index}` })))
      assert.deepStrictEqual([results.length, events.length, signals.length], [count, count, 1])
      for (const index of [0, 1, 4_711, 99_998, 99_999]) {
        assert.deepStrictEqual((yield* read(idOf(results[index] ?? { _tag: "" }))).args, { to: `${index}` })
      }
      const wrong = yield* sql`
        select 1 from (select args->>'to' as n, row_number() over (order by id) - 1 as place
                         from jobs.jobs where id >= ${idOf(results[0] ?? { _tag: "" })}) t
         where n::int <> place limit 1`
      assert.deepStrictEqual(wrong, [])
      yield* sql`delete from jobs.jobs`
    })
  )

  it.effect("takes 20,000 unique jobs at once, and once more", () =>
    Effect.gen(function* () {
      const { enqueueMany } = yield* setUp
      const jobs = Array.from({ length: 20_000 }, (_, account) => Sync.job({ account }, { queue: "unique" }))
      const first = yield* enqueueMany(jobs)
      assert.isTrue(first.every(({ _tag }) => _tag === "Inserted"))
      const second = yield* enqueueMany(jobs)
      assert.isTrue(
        second.every((result, index) => result._tag === "Conflict" && idOf(result) === idOf(first[index] ?? result))
      )
    })
  )

  it.effect("takes more than one statement can, in one transaction", () =>
    Effect.gen(function* () {
      const { enqueueMany, sql } = yield* setUp
      const text = "x".repeat(5_000_000)
      const { jobs } = yield* counts
      const plain = Array.from({ length: 10 }, (_, index) => Anything.job([index, text]))
      const unique = Array.from({ length: 10 }, (_, index) =>
        Anything.job([index, text], { unique: { states: "all" } })
      )
      const first = yield* enqueueMany([...plain, ...unique])
      assert.isTrue(first.every(({ _tag }) => _tag === "Inserted"))
      for (const [index, result] of first.entries()) {
        const rows = yield* sql`select args->0 as first from jobs.jobs where id = ${idOf(result)}`
        assert.deepStrictEqual(rows, [{ first: index % 10 }] as never)
      }
      yield* Effect.flip(sql.withTransaction(Effect.andThen(enqueueMany(plain), Effect.fail("no"))))
      assert.strictEqual((yield* counts).jobs, jobs + 20)
    })
  )

  it.effect("fails with what the database says, and leaves nothing behind", () =>
    Effect.gen(function* () {
      const { enqueueMany, events, sql } = yield* setUp
      const before = yield* counts
      yield* sql`alter table jobs.jobs add constraint broken check (args->>'to' <> 'broken') not valid`
      const jobs = [Mail.job({ to: "fine" }), Sync.job({ account: -1 }), Mail.job({ to: "broken" })]
      const error = yield* Effect.flip(enqueueMany(jobs))
      assert.strictEqual(error.reason._tag, "ConstraintError")
      assert.deepStrictEqual(yield* counts, before)
      assert.deepStrictEqual(events, [])
      yield* sql`alter table jobs.jobs drop constraint broken`
    })
  )

  it.effect("works through a pool that keeps no prepared statements", () =>
    Effect.gen(function* () {
      const { enqueueMany } = yield* setUp
      const results = yield* enqueueMany([Mail.job({ to: "ada" }), Sync.job({ account: -2 })])
      assert.isTrue(results.every(({ _tag }) => _tag === "Inserted"))
    }).pipe(
      Effect.provide(
        Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { prepare: false } })
      )
    )
  )
})
