import { assert, describe, layer } from "@effect/vitest"
import { Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { Effect, Layer } from "effect"
import * as Claim from "../src/internal/claim.ts"
import * as LimitedClaim from "../src/internal/limitedClaim.ts"
import * as Settle from "../src/internal/settle.ts"
import * as Stage from "../src/internal/stage.ts"
import { clear, connections, whileOpen } from "./fixtures/races.ts"
import { insert, insertOne, node, Recorder, recorder } from "./fixtures/tables.ts"

const tables = recorder.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 4 } })
  )
)

const setUp = Effect.gen(function* () {
  const sql = yield* clear
  const { client } = yield* Recorder
  return {
    sql,
    database: client.database,
    claim: Claim.make(client.database),
    limited: LimitedClaim.make(client.database)
  }
})

const unlimited = (claim: ReturnType<typeof Claim.make>, demand = 10) =>
  claim("default", demand, node, new Claim.Marks().after(true), [])

const idsOf = (rows: ReadonlyArray<Claim.ClaimedRow>) => rows.map(({ id }) => id)
const ascending = (values: ReadonlyArray<number>) => values.toSorted((a, b) => a - b)

layer(tables, { excludeTestServices: true })("claims on eight connections", (it) => {
  /** Jobs of the last hour, in an order that has nothing to do with their ids. */
  const shuffled = (n: number) =>
    Effect.map(
      Effect.flatMap(Recorder, ({ client }) =>
        client.database.run<{ readonly id: number }>(
          `insert into jobs.jobs (queue, worker, priority, queued_at)
           select 'default', 'Test', n * 7 % 10, statement_timestamp() - abs(hashint4(n)) % 3600 * interval '1 second'
             from generate_series(1, $1::int) n
           returning id::float8 as id`,
          [n]
        )
      ),
      (rows) => rows.map(({ id }) => id)
    )

  it.effect("take every job once, each by priority and then by age", () =>
    Effect.gen(function* () {
      const { sql } = yield* setUp
      const databases = yield* connections(8)
      for (let round = 0; round < 25; round++) {
        const ids = yield* shuffled(240)
        const claimants = yield* Effect.forEach(
          databases,
          (database, index) =>
            Effect.gen(function* () {
              const claim = Claim.make(database)
              const marks = new Claim.Marks()
              const taken: Array<Claim.ClaimedRow> = []
              // Whatever one does not see another one has.
              while (true) {
                const rows = yield* claim("default", 1 + ((index * 5 + round) % 13), node, marks.after(false), [])
                marks.raise(rows)
                taken.push(...rows)
                if (rows.length === 0) return taken
              }
            }),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(ascending(claimants.flatMap(idsOf)), ids)
        assert.isAbove(claimants.filter(({ length }) => length > 0).length, 1)
        for (const taken of claimants) {
          const inOrder = taken.toSorted(
            (a, b) => a.priority - b.priority || a.queued_at.getTime() - b.queued_at.getTime() || a.id - b.id
          )
          assert.deepStrictEqual(idsOf(taken), idsOf(inOrder))
          assert.isTrue(taken.every(({ attempt, lease }) => attempt === 1 && lease === 1))
        }
        yield* sql`delete from jobs.jobs`
      }
    }).pipe(Effect.scoped)
  )

  it.effect("lose nothing of what was claimed by one that rolled back", () =>
    Effect.gen(function* () {
      const { sql } = yield* setUp
      const databases = yield* connections(8)
      for (let round = 0; round < 20; round++) {
        const ids = yield* shuffled(160)
        let rolledBack = 0
        const claimants = yield* Effect.forEach(
          databases,
          (database, index) =>
            Effect.gen(function* () {
              const claim = Claim.make(database)
              const taken: Array<number> = []
              for (let n = 0; n < 6; n++) {
                const some = Effect.map(unlimited(claim, 7), idsOf)
                if ((index + n) % 3 === 0) {
                  const failing = Effect.tap(some, (lost) => {
                    rolledBack += lost.length
                    return Effect.fail("no")
                  })
                  yield* Effect.ignore(database.client.withTransaction(failing))
                } else taken.push(...(yield* some))
              }
              return taken
            }),
          { concurrency: "unbounded" }
        )
        const taken = claimants.flat()
        assert.strictEqual(new Set(taken).size, taken.length)
        assert.isAbove(rolledBack, 0)
        const [first] = databases
        const rest = first === undefined ? [] : yield* unlimited(Claim.make(first), 1_000)
        assert.deepStrictEqual(ascending([...taken, ...idsOf(rest)]), ids)
        assert.isTrue(rest.every(({ attempt, lease }) => attempt === 1 && lease === 1))
        yield* sql`delete from jobs.jobs`
      }
    }).pipe(Effect.scoped)
  )
})

layer(tables)("a claim", (it) => {
  const prompt = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.timeout(effect, "5 seconds")

  it.effect("takes a job to which a transaction that is open refers by a foreign key", () =>
    Effect.gen(function* () {
      const { claim, limited, sql } = yield* setUp
      yield* sql`create table refers (job_id bigint references jobs.jobs on delete cascade)`
      for (const how of ["plain", "limited"] as const) {
        const id = yield* insertOne()
        const some =
          how === "plain" ? unlimited(claim) : Effect.map(limited("default", 10, node, []), ({ rows }) => rows)
        const [, rows] = yield* whileOpen(sql, sql`insert into refers values (${id})`, prompt(some))
        assert.deepStrictEqual(idsOf(rows), [id], how)
      }
      yield* sql`drop table refers`
    })
  )

  it.effect("passes over a job that somebody has locked, without waiting, and takes it later", () =>
    Effect.gen(function* () {
      const { claim, database, limited, sql } = yield* setUp
      for (const how of ["plain", "limited"] as const) {
        yield* clear
        const marks = new Claim.Marks()
        const some = Effect.suspend(() =>
          how === "plain"
            ? Effect.tap(claim("default", 10, node, marks.after(false), []), (rows) =>
                Effect.sync(() => marks.raise(rows))
              )
            : Effect.map(limited("default", 10, node, []), ({ rows }) => rows)
        )
        const locked = yield* insertOne()
        const others = yield* insert({ count: 5 })
        const [, rows] = yield* whileOpen(sql, sql`select from jobs.jobs where id = ${locked} for update`, prompt(some))
        assert.deepStrictEqual(ascending(idsOf(rows)), others, how)
        const { heads } = yield* Stage.make(database)(["default"])
        for (const { id, priority, queuedAt } of heads) marks.lower(priority, queuedAt, id)
        assert.deepStrictEqual(idsOf(yield* some), [locked], how)
      }
    })
  )

  describe("is not kept by jobs without an attempt left, of which", () => {
    const refused = (statement: Effect.Effect<unknown, { readonly reason: { readonly cause: unknown } }>) =>
      Effect.map(Effect.flip(statement), ({ reason: { cause } }) =>
        typeof cause === "object" && cause !== null && "constraint" in cause ? cause.constraint : cause
      )

    it.effect("none can be made to wait", () =>
      Effect.gen(function* () {
        const { sql } = yield* setUp
        const executing = yield* insertOne({ state: "executing", attempt: 3, maxAttempts: 3 })
        for (const state of ["available", "scheduled", "retryable"]) {
          for (const statement of [
            sql`insert into jobs.jobs (queue, worker, state, attempt, max_attempts) values ('default', 'Test', ${state}, 3, 3)`,
            sql`update jobs.jobs set state = ${state}, leased_by = null where id = ${executing}`
          ]) {
            assert.strictEqual(yield* refused(statement), "jobs_runnable_has_attempt_left")
          }
        }
        const waiting = yield* insertOne({ attempt: 2, maxAttempts: 3 })
        assert.strictEqual(
          yield* refused(sql`update jobs.jobs set max_attempts = 2 where id = ${waiting}`),
          "jobs_runnable_has_attempt_left"
        )
        assert.strictEqual(
          yield* refused(sql`update jobs.jobs set attempt = 4, max_attempts = 3 where id = ${executing}`),
          "jobs_attempt"
        )
      })
    )

    it.effect("a failed one ends and leaves its place to those behind it", () =>
      Effect.gen(function* () {
        const { claim, database } = yield* setUp
        const settle = Settle.make(database)
        yield* insert({ count: 10, attempt: 0, maxAttempts: 1 })
        const last = yield* unlimited(claim)
        const good = yield* insert({ count: 5 })
        const settled = yield* settle.settle(
          last.map(({ id, lease }) => ({ id, lease, to: "retryable" as const, delayMillis: 0 }))
        )
        assert.deepStrictEqual(new Set(settled.map(({ state }) => state)), new Set(["discarded"]))
        assert.deepStrictEqual(ascending(idsOf(yield* unlimited(claim))), good)
      })
    )
  })
})
