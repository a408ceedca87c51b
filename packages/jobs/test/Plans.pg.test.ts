/** How much of its tables the queue reads, whatever they hold and whatever the planner knows of them. */
import { Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Layer } from "effect"
import * as Claim from "../src/internal/claim.ts"
import * as Database from "../src/internal/database.ts"
import * as Nodes from "../src/internal/nodes.ts"
import * as Pool from "../src/internal/pool.ts"
import * as Settle from "../src/internal/settle.ts"
import * as Stage from "../src/internal/stage.ts"
import { clear } from "./fixtures/races.ts"
import { node } from "./fixtures/tables.ts"

const Tables = Jobs.layerClient.pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 3 } })
  )
)

/** What a node does with jobs, on one connection as it opens them, and how many blocks it looks at. */
const setUp = Effect.gen(function* () {
  const sql = yield* clear
  // What the planner knows is that there is nothing, as when a queue was idle: nobody analyzes the table from here on.
  yield* sql`alter table jobs.jobs set (autovacuum_enabled = false)`
  yield* sql`vacuum jobs.jobs`
  const own = yield* Pool.make(yield* PgClient.PgClient, 1, "plans")
  const database = yield* Database.make(own, "jobs", "database")
  const claim = Claim.make(database)
  const nodes = Nodes.make(database, Nodes.lease(Duration.seconds(30)), 3)
  const settle = Settle.make(database)
  const stage = Stage.make(database)
  const fetched = database.run<{ readonly blocks: number }>(`
    select sum(pg_stat_get_xact_blocks_fetched(oid))::float8 as blocks from pg_class
     where oid = 'jobs.jobs'::regclass
        or oid in (select indexrelid from pg_index where indrelid = 'jobs.jobs'::regclass)`)
  /** What a statement answers, and the blocks of jobs and of their indexes that it looked at. */
  const counted = <A, E, R>(statement: Effect.Effect<A, E, R>) =>
    own.withTransaction(
      Effect.gen(function* () {
        const [before] = yield* fetched
        const answer = yield* statement
        const [after] = yield* fetched
        return [(after?.blocks ?? Number.NaN) - (before?.blocks ?? Number.NaN), answer] as const
      })
    )
  const marks = new Claim.Marks()
  const take = (demand: number) =>
    Effect.tap(claim("default", demand, node, marks.after(true), []), (rows) => Effect.sync(() => marks.raise(rows)))
  const endOf = (rows: ReadonlyArray<Claim.ClaimedRow>) => {
    const sorted = rows.toSorted((a, b) => a.id - b.id)
    return settle.complete(
      sorted.map(({ id }) => id),
      sorted.map(({ lease }) => lease),
      false
    )
  }
  /** Everything that a node with ten jobs does, and what each looked at. */
  const round = Effect.gen(function* () {
    const [claiming, rows] = yield* counted(take(10))
    const [beating] = yield* counted(
      nodes.beat(
        node,
        rows.map(({ id }) => id),
        rows.map(({ lease }) => lease)
      )
    )
    const [looking] = yield* counted(nodes.strays(node, []))
    const [completing, ended] = yield* counted(endOf(rows))
    const [polling] = yield* counted(stage(["default", "empty"]))
    return {
      counts: [rows.length, ended.length],
      blocks: { claiming, beating, looking, completing, polling }
    }
  })
  /** Jobs of the last hours, one each 20 milliseconds, on all priorities. */
  const fill = (queue: string, n: number) =>
    sql`insert into jobs.jobs (queue, worker, priority, queued_at)
        select ${queue}, 'Test', n % 10, statement_timestamp() - interval '2 hours' + n * interval '20 milliseconds'
          from generate_series(1, ${n}) n`
  return { sql, claim, counted, endOf, fill, marks, round, take }
})

/** Of a job, an index takes three blocks or four, and a change of it as many for each index that it is in. */
const few = 600

const assertFew = (blocks: Readonly<Record<string, number>>, when: string) => {
  for (const [what, count] of Object.entries(blocks)) assert.isBelow(count, few, `${what} ${when}`)
}

layer(Tables, { excludeTestServices: true })("among a hundred thousand jobs", (it) => {
  it.effect("ten are found by an index, with plans of when the table was empty, analyzed or not", () =>
    Effect.gen(function* () {
      const { endOf, fill, round, sql, take } = yield* setUp
      // More often than it takes until a plan is kept.
      for (let n = 0; n < 6; n++) assert.deepStrictEqual((yield* round).counts, [0, 0])
      yield* fill("default", 90_000)
      yield* sql`
        insert into jobs.jobs (state, queue, worker, attempt, scheduled_at)
        select case when n % 2 = 0 then 'scheduled' else 'retryable' end, 'default', 'Test', 1,
               statement_timestamp() + n * interval '1 second' from generate_series(1, 10_000) n`
      const [table] = yield* sql`
        select relpages, reltuples, pg_relation_size(oid) / 8192 > ${few * 2} as large from pg_class where oid = 'jobs.jobs'::regclass`
      assert.deepStrictEqual(table, { relpages: 0, reltuples: 0, large: true })
      for (const when of ["as planned for an empty table", "and once more"]) {
        const { blocks, counts } = yield* round
        assert.deepStrictEqual(counts, [10, 10])
        assertFew(blocks, when)
        // Many at once as well, and what they leave.
        assert.lengthOf(yield* endOf(yield* take(1_000)), 1_000)
      }
      yield* sql`analyze jobs.jobs`
      const { blocks, counts } = yield* round
      assert.deepStrictEqual(counts, [10, 10])
      assertFew(blocks, "after analyze")
    }).pipe(Effect.scoped)
  )

  it.effect("a claim does not walk over twenty thousand that were claimed before, which an old snapshot keeps", () =>
    Effect.gen(function* () {
      const { claim, counted, endOf, fill, sql, take } = yield* setUp
      yield* fill("default", 30_000)
      const seen = yield* Deferred.make<void>()
      const holder = yield* Effect.forkChild(
        sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`set transaction isolation level repeatable read`
            yield* sql`select count(*) from jobs.jobs`
            yield* Deferred.succeed(seen, undefined)
            return yield* Effect.never
          })
        )
      )
      yield* Deferred.await(seen)
      for (let n = 0; n < 4; n++) {
        const rows = yield* take(5_000)
        assert.lengthOf(rows, 5_000)
        assert.lengthOf(yield* endOf(rows), 5_000)
      }
      yield* sql`vacuum jobs.jobs`
      for (let n = 0; n < 3; n++) {
        const [blocks, rows] = yield* counted(take(10))
        assert.lengthOf(rows, 10)
        // It begins two seconds before the place where the last one ended, at each priority: a hundred dead entries.
        assert.isBelow(blocks, 2 * few)
      }
      // What a claim would cost that begins at the beginning.
      const [blocks] = yield* counted(claim("default", 10, node, new Claim.Marks().after(true), []))
      assert.isAbove(blocks, 5 * few)
      yield* Fiber.interrupt(holder)
    }).pipe(Effect.scoped)
  )

  it.effect("the table of those that are not finished is vacuumed after a thousand dead rows, at full speed", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      yield* sql`alter table jobs.jobs reset (autovacuum_enabled)`
      const [table] = yield* sql<{ readonly options: ReadonlyArray<string> }>`
        select reloptions as options from pg_class where oid = 'jobs.jobs'::regclass`
      assert.deepStrictEqual(table?.options.toSorted(), [
        "autovacuum_analyze_scale_factor=0.05",
        "autovacuum_vacuum_cost_delay=0",
        "autovacuum_vacuum_scale_factor=0.01",
        "autovacuum_vacuum_threshold=1000"
      ])
    })
  )
})
