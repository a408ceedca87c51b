import { assert, describe, layer } from "@effect/vitest"
import { Postgres } from "@coppice/postgres"
import { Deferred, Effect, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { Migrations, Retention } from "@coppice/jobs"
import * as Care from "../src/internal/care.ts"
import * as Claim from "../src/internal/claim.ts"
import * as History from "../src/internal/history.ts"
import * as Settle from "../src/internal/settle.ts"
import * as Stage from "../src/internal/stage.ts"
import { all, insert, insertOne, key, keys, node, Recorder, recorder } from "./fixtures/tables.ts"

const tables = recorder.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 10 } })
  )
)
const setUp = Effect.gen(function* () {
  const recorded = yield* Recorder
  const { client } = recorded
  const { database } = client
  yield* database.run("delete from jobs.jobs")
  yield* database.run("delete from jobs.jobs_history")
  yield* database.run("delete from jobs.unique_keys")
  recorded.events.length = 0
  recorded.signals.length = 0
  const claim = Claim.make(database)
  return {
    ...recorded,
    sql: yield* SqlClient.SqlClient,
    care: Care.make(client),
    claim: (demand = 100) => claim("default", demand, node, new Claim.Marks().after(true), []),
    stage: Stage.make(database)([]),
    settle: Settle.make(database)
  }
})

/** Until somebody waits for a lock, so that what comes next comes while it waits. */
const blocked = (sql: SqlClient.SqlClient, n = 1) =>
  Effect.gen(function* () {
    for (;;) {
      const waiting =
        yield* sql`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
      if (waiting.length >= n) return
      yield* Effect.yieldNow
    }
  })

/**
 * Runs `first` in a transaction that stays open until `second` waits for it. Answers what both answered.
 */
const inOrder = <A, E, B, F>(sql: SqlClient.SqlClient, first: Effect.Effect<A, E>, second: Effect.Effect<B, F>) =>
  Effect.gen(function* () {
    const done = yield* Deferred.make<void>()
    const go = yield* Deferred.make<void>()
    const one = yield* Effect.forkChild(
      sql.withTransaction(
        Effect.tap(first, () => Effect.andThen(Deferred.succeed(done, undefined), Deferred.await(go)))
      )
    )
    yield* Deferred.await(done)
    const two = yield* Effect.forkChild(second)
    yield* blocked(sql)
    yield* Deferred.succeed(go, undefined)
    return [yield* Fiber.join(one), yield* Fiber.join(two)] as const
  })

/** The only job there is, wherever it is. */
const only = Effect.flatMap(all, (rows) => {
  assert.lengthOf(rows, 1)
  return Effect.succeed(rows[0]?.state)
})

layer(tables)("care on several connections", (it) => {
  describe("many", () => {
    it.effect("cancels, retries and deletes 25,000 jobs in batches, each told once", () =>
      Effect.gen(function* () {
        const { care, events } = yield* setUp
        yield* insert({ count: 25_000 })
        assert.deepStrictEqual(yield* care.cancel({ queue: "default" }), { cancelled: 25_000, requested: 0 })
        assert.deepStrictEqual(yield* care.retry({ state: "cancelled" }), { retried: 25_000, conflicts: 0 })
        assert.strictEqual(yield* care.delete({ worker: "Test" }), 25_000)
        assert.deepStrictEqual(yield* all, [])
        for (const tag of ["Cancelled", "Retried", "Deleted"]) {
          const ids = events.flatMap((event) => (event._tag === tag && "id" in event ? [event.id] : []))
          assert.strictEqual(new Set(ids).size, 25_000)
          assert.lengthOf(ids, 25_000)
        }
      })
    )

    it.effect("changes all or nothing in a transaction, which nobody sees before it commits", () =>
      Effect.gen(function* () {
        const { care, events, signals, sql } = yield* setUp
        yield* insert({ count: 2_500 })
        const inside = Effect.gen(function* () {
          assert.strictEqual((yield* care.cancel({})).cancelled, 2_500)
          assert.deepStrictEqual(events, [])
        })
        yield* Effect.flip(sql.withTransaction(Effect.andThen(inside, Effect.fail("no"))))
        assert.lengthOf(yield* care.list({ state: "available" }, { limit: 5_000 }), 2_500)
        assert.deepStrictEqual([...events, ...signals], [])
        yield* sql.withTransaction(inside)
        assert.lengthOf(events, 2_500)
      })
    )
  })

  describe("a cancel", () => {
    it.effect("that comes after a claim asks the job to end", () =>
      Effect.gen(function* () {
        const { care, claim, sql } = yield* setUp
        yield* insertOne()
        const [, answer] = yield* inOrder(sql, claim(), care.cancel({}))
        assert.deepStrictEqual(answer, { cancelled: 0, requested: 1 })
        assert.strictEqual(yield* only, "executing")
      })
    )

    it.effect("that comes before a claim leaves nothing to claim", () =>
      Effect.gen(function* () {
        const { care, claim, sql } = yield* setUp
        yield* insertOne()
        const taken = yield* sql.withTransaction(
          Effect.andThen(
            care.cancel({}),
            Effect.flatMap(Effect.void, () => claim())
          )
        )
        assert.deepStrictEqual(taken, [])
        assert.strictEqual(yield* only, "cancelled")
      })
    )

    it.effect("never makes a completed job cancelled, nor a cancelled one anything else", () =>
      Effect.gen(function* () {
        const { care, settle, sql } = yield* setUp
        const one = yield* insertOne({ state: "executing" })
        const [, late] = yield* inOrder(sql, settle.complete([one], [1], false), care.cancel({}))
        assert.deepStrictEqual(late, { cancelled: 0, requested: 0 })
        assert.strictEqual(yield* only, "completed")
        yield* care.delete({})
        // The other way round the request comes first, and a success still counts.
        const two = yield* insertOne({ state: "executing" })
        const [early] = yield* inOrder(sql, care.cancel({}), settle.complete([two], [1], false))
        assert.deepStrictEqual(early, { cancelled: 0, requested: 1 })
        assert.strictEqual(yield* only, "completed")
        yield* care.delete({})
        // A failure does not bring the job back.
        const three = yield* insertOne({ state: "executing" })
        const failed = { id: three, lease: 1, to: "retryable", delayMillis: 1_000 } as const
        const done = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const asked = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.tap(care.cancel({}), () => Effect.andThen(Deferred.succeed(done, undefined), Deferred.await(go)))
          )
        )
        yield* Deferred.await(done)
        // Whoever has locked the job keeps nobody waiting: it is written later.
        assert.deepStrictEqual(yield* settle.settle([failed]), [])
        assert.deepStrictEqual([...(yield* settle.present([three], [1]))], [three])
        yield* Deferred.succeed(go, undefined)
        assert.deepStrictEqual(yield* Fiber.join(asked), { cancelled: 0, requested: 1 })
        assert.deepStrictEqual(
          (yield* settle.settle([failed])).map(({ state }) => state),
          ["cancelled"]
        )
        assert.strictEqual(yield* only, "cancelled")
      })
    )

    it.effect("ends what a failure has set back meanwhile", () =>
      Effect.gen(function* () {
        const { care, settle, sql } = yield* setUp
        const one = yield* insertOne({ state: "executing" })
        const failed = { id: one, lease: 1, to: "retryable", delayMillis: 1_000 } as const
        const [, answer] = yield* inOrder(sql, settle.settle([failed]), care.cancel({}))
        assert.deepStrictEqual(answer, { cancelled: 1, requested: 0 })
        assert.strictEqual(yield* only, "cancelled")
      })
    )

    it.effect("ends what was staged meanwhile, and what it ended is not staged", () =>
      Effect.gen(function* () {
        const { care, stage, sql } = yield* setUp
        yield* insertOne({ state: "scheduled" })
        const [, answer] = yield* inOrder(sql, stage, care.cancel({}))
        assert.deepStrictEqual(answer, { cancelled: 1, requested: 0 })
        assert.strictEqual(yield* only, "cancelled")
      })
    )

    it.effect("counts once what two cancel at once", () =>
      Effect.gen(function* () {
        const { care, events, sql } = yield* setUp
        yield* insert({ count: 1_500 })
        const [first, second] = yield* inOrder(sql, care.cancel({}), care.cancel({}))
        assert.deepStrictEqual([first.cancelled, second.cancelled], [1_500, 0])
        assert.lengthOf(events, 1_500)
      })
    )
  })

  describe("a retry", () => {
    it.effect("of a finished job happens once, however many ask", () =>
      Effect.gen(function* () {
        const { care, events, sql } = yield* setUp
        yield* insert({ state: "discarded", count: 20 })
        const [first, second] = yield* inOrder(sql, care.retry({}), care.retry({}))
        assert.deepStrictEqual(
          [first, second],
          [
            { retried: 20, conflicts: 0 },
            { retried: 0, conflicts: 0 }
          ]
        )
        assert.lengthOf(yield* all, 20)
        assert.lengthOf(events, 20)
      })
    )

    it.effect("runs a job once, also one that has run to its end before the call answers", () =>
      Effect.gen(function* () {
        const { claim, client, events, settle } = yield* setUp
        yield* insert({ state: "retryable", attempt: 4, maxAttempts: 5 })
        yield* insert({ state: "retryable" })
        yield* insert({ state: "completed" })
        // A node is so quick that both have ended when finished jobs are looked for.
        const run = Effect.gen(function* () {
          for (const { attempt, id, lease } of yield* claim()) {
            if (attempt < 5) yield* settle.complete([id], [lease], false)
            else yield* settle.settleOne({ id, lease, to: "retryable", delayMillis: 1_000 })
          }
        })
        const quick = Care.make({ ...client, signal: () => Effect.orDie(run) })
        assert.deepStrictEqual(yield* quick.retry({}), { retried: 3, conflicts: 0 })
        assert.deepStrictEqual(
          (yield* all).map(({ attempt, state }) => [state, attempt]),
          [
            ["discarded", 5],
            ["completed", 2],
            ["completed", 2]
          ]
        )
        assert.lengthOf(events, 3)
      })
    )

    it.effect("waits for another that may get the key, and gets it if that rolls back", () =>
      Effect.gen(function* () {
        const { care, sql } = yield* setUp
        for (const commit of [true, false]) {
          yield* care.delete({})
          const old = yield* insertOne({ state: "completed" })
          const other = yield* insertOne({ state: "discarded" })
          yield* key(old, { key: "k", states: 15, held: false })
          yield* key(other, { key: "k", states: 15, held: false })
          const done = yield* Deferred.make<void>()
          const first = yield* Effect.forkChild(
            Effect.exit(
              sql.withTransaction(
                care
                  .retry({ id: other })
                  .pipe(
                    Effect.andThen(Deferred.succeed(done, undefined)),
                    Effect.andThen(blocked(sql)),
                    Effect.andThen(commit ? Effect.void : Effect.fail("no"))
                  )
              )
            )
          )
          yield* Deferred.await(done)
          const answer = yield* care.retry({ id: old })
          yield* Fiber.join(first)
          assert.deepStrictEqual(answer, commit ? { retried: 0, conflicts: 1 } : { retried: 1, conflicts: 0 })
          assert.deepStrictEqual(yield* keys, { k: commit ? other : old })
        }
      })
    )
  })

  describe("a delete", () => {
    it.effect("leaves what was claimed meanwhile, and what it deleted is not claimed", () =>
      Effect.gen(function* () {
        const { care, claim, sql } = yield* setUp
        yield* insertOne()
        const [, late] = yield* inOrder(sql, claim(), care.delete({}))
        assert.strictEqual(late, 0)
        assert.strictEqual(yield* only, "executing")
      })
    )

    it.effect("finds what finishes while it is at it", () =>
      Effect.gen(function* () {
        const { care, settle, sql } = yield* setUp
        const one = yield* insertOne({ state: "executing" })
        yield* insertOne()
        const locked = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const holder = yield* Effect.forkChild(
          sql`select from jobs.jobs where state = 'available' for update`.pipe(
            Effect.andThen(Deferred.succeed(locked, undefined)),
            Effect.andThen(Deferred.await(go)),
            sql.withTransaction
          )
        )
        yield* Deferred.await(locked)
        const deletion = yield* Effect.forkChild(care.delete({}))
        yield* blocked(sql)
        yield* settle.complete([one], [1], false)
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(holder)
        assert.strictEqual(yield* Fiber.join(deletion), 2)
        assert.deepStrictEqual(yield* all, [])
      })
    )
  })

  it.effect("retries, deletes or prunes a finished job, but only one of it, and its key goes or stays with it", () =>
    Effect.gen(function* () {
      const { care, client } = yield* setUp
      const limits = yield* Retention.limits({ cancelled: { age: 0 } })
      const total = { retried: 0, pruned: 0, deleted: 0 }
      const retry = Effect.map(care.retry({ state: "cancelled" }), ({ retried }) => (total.retried += retried))
      const prune = Effect.map(History.prune(client.database, limits), ({ jobs }) => (total.pruned += jobs))
      const remove = Effect.map(care.delete({ state: "cancelled", tag: "old" }), (n) => (total.deleted += n))
      const rounds = 25
      for (let round = 0; round < rounds; round++) {
        const ids = yield* insert({ state: "cancelled", count: 40, tags: ["old"] })
        yield* client.database.run(
          `with j as (update jobs.jobs_history set unique_key = sha256(convert_to(id::text, 'UTF8')), unique_states = 127 returning id, unique_key)
           insert into jobs.unique_keys (key, job_id, states) select unique_key, id, 127 from j`
        )
        // The prune has some questions to ask first: the others begin at about each of them.
        const later = Effect.replicateEffect(client.database.run("select 1"), round)
        const others = Effect.all(round % 2 === 0 ? [retry, remove, retry] : [remove, retry], {
          concurrency: "unbounded"
        })
        yield* Effect.all([prune, prune, Effect.andThen(later, others)], { concurrency: "unbounded" })
        const left = yield* all
        assert.isTrue(left.every((row) => ids.includes(row.id) && row.state === "available"))
        const held = yield* client.database.run<{ readonly id: number }>(
          "select job_id::float8 as id from jobs.unique_keys order by 1"
        )
        assert.deepStrictEqual(
          held.map((row) => row.id),
          left.map((row) => row.id)
        )
        yield* client.database.run("delete from jobs.unique_keys")
        yield* client.database.run("delete from jobs.jobs")
      }
      assert.strictEqual(total.retried + total.pruned + total.deleted, rounds * 40)
      assert.deepStrictEqual([total.retried > 0, total.pruned > 0, total.deleted > 0], [true, true, true])
    })
  )

  it.effect("stays right in any order: no job is lost or doubled, what completed stays, and no key has two jobs", () =>
    Effect.gen(function* () {
      const { care, claim, client, settle, stage } = yield* setUp
      const database = client.database
      const completed = new Set<number>()
      let changed = 0
      const work = Effect.gen(function* () {
        const rows = yield* claim(20)
        const lines = rows.map(({ id, lease }, index) =>
          index % 2 === 0
            ? ({ id, lease, to: "completed" } as const)
            : ({ id, lease, to: "retryable", delayMillis: 0 } as const)
        )
        for (const { id, state } of yield* settle.settle(lines)) if (state === "completed") completed.add(id)
      })
      const cancelled = Effect.map(care.cancel({}), (answer) => (changed += answer.cancelled))
      const retried = Effect.map(
        care.retry({ state: ["cancelled", "discarded"] }),
        (answer) => (changed += answer.retried)
      )
      const deleted = Effect.map(care.delete({ tag: "old", state: "cancelled" }), (n) => (changed += n))
      const enqueue = (key: string) =>
        database.run(
          `with k as (
             insert into jobs.unique_keys (key, job_id, states)
             select convert_to($1, 'UTF8'), nextval(pg_get_serial_sequence('jobs.jobs', 'id')), 15
             on conflict (key) do nothing returning key, job_id)
           insert into jobs.jobs (id, queue, worker, unique_key, unique_states)
           select job_id, 'default', 'Test', key, 15 from k`,
          [key]
        )
      for (let round = 0; round < 40; round++) {
        yield* insert({ count: 10, tags: round % 3 === 0 ? ["old"] : [] })
        yield* insert({ state: "scheduled", count: 5 })
        yield* Effect.all(
          [
            work,
            cancelled,
            retried,
            stage,
            deleted,
            work,
            cancelled,
            retried,
            enqueue("a"),
            enqueue("b"),
            enqueue("a")
          ],
          { concurrency: "unbounded" }
        )
        const rows = yield* all
        assert.strictEqual(new Set(rows.map((row) => row.id)).size, rows.length)
        const states = new Map(rows.map((row) => [row.id, row.state]))
        for (const id of completed) assert.strictEqual(states.get(id), "completed")
        const keyed = yield* database.run<{ readonly id: number; readonly key: string; readonly held: boolean }>(
          `select j.id::float8 as id, convert_from(j.unique_key, 'UTF8') as key, u.job_id is not null as held
             from jobs.jobs j left join jobs.unique_keys u on u.key = j.unique_key and u.job_id = j.id
            where j.unique_key is not null`
        )
        assert.strictEqual(new Set(keyed.map((job) => job.key)).size, keyed.length)
        assert.isTrue(keyed.every((job) => job.held))
        assert.sameMembers(
          Object.values(yield* keys),
          keyed.map((job) => job.id)
        )
      }
      assert.isAbove(changed, 300)
      assert.isAbove(completed.size, 30)
    })
  )
})
