import { assert, describe, layer } from "@effect/vitest"
import { Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { Effect, Layer, References } from "effect"
import * as Care from "../src/internal/care.ts"
import * as Stage from "../src/internal/stage.ts"
import { eventually, liveNode, type Run } from "./fixtures/liveNode.ts"
import { clear, connections, inOrder, whileOpen } from "./fixtures/races.ts"
import { all, insert, insertOne, Recorder, recorder } from "./fixtures/tables.ts"

const tables = Layer.merge(recorder, Jobs.layerClient).pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 4 } })
  )
)

const setUp = Effect.gen(function* () {
  const sql = yield* clear
  const { client } = yield* Recorder
  return { sql, care: Care.make(client), stage: Stage.make(client.database)([]) }
})

const states = Effect.map(all, (rows) => rows.map(({ state }) => state))

layer(tables, { excludeTestServices: true })("staging", (it) => {
  describe("and cancelling one job", () => {
    for (const state of ["scheduled", "retryable"] as const) {
      it.effect(`does not bring back what is being cancelled, nor waits for it (${state})`, () =>
        Effect.gen(function* () {
          const { care, sql, stage } = yield* setUp
          yield* insertOne({ state })
          const [cancelled, polled] = yield* whileOpen(sql, care.cancel({}), Effect.timeout(stage, "5 seconds"))
          assert.deepStrictEqual(cancelled, { cancelled: 1, requested: 0 })
          assert.deepStrictEqual(polled.staged, {})
          assert.deepStrictEqual((yield* stage).staged, {})
          assert.deepStrictEqual(yield* states, ["cancelled"])
        })
      )

      it.effect(`ends what was staged first (${state})`, () =>
        Effect.gen(function* () {
          const { care, sql, stage } = yield* setUp
          yield* insertOne({ state })
          const [polled, cancelled] = yield* inOrder(sql, stage, care.cancel({}))
          assert.deepStrictEqual(polled.staged, { default: 1 })
          assert.deepStrictEqual(cancelled, { cancelled: 1, requested: 0 })
          assert.deepStrictEqual(yield* states, ["cancelled"])
        })
      )
    }

    it.effect("leaves what is being cancelled by one that rolls back to the next", () =>
      Effect.gen(function* () {
        const { care, sql, stage } = yield* setUp
        yield* insertOne({ state: "scheduled" })
        yield* Effect.flip(
          sql.withTransaction(
            care.cancel({}).pipe(
              // On another connection, as the transaction is this fiber's.
              Effect.andThen(
                Effect.flatMap(connections(1), ([other]) => (other === undefined ? Effect.void : Stage.make(other)([])))
              ),
              Effect.andThen(Effect.fail("no")),
              Effect.scoped
            )
          )
        )
        assert.deepStrictEqual((yield* stage).staged, { default: 1 })
      })
    )

    it.effect("at once, many times over, cancels every job once", () =>
      Effect.gen(function* () {
        const { sql } = yield* setUp
        const { client, events } = yield* Recorder
        const care = Care.make(client)
        const stagers = (yield* connections(2)).map((database) => Stage.make(database)([]))
        let staged = 0
        for (let round = 0; round < 25; round++) {
          events.length = 0
          yield* insert({ state: round % 2 === 0 ? "scheduled" : "retryable", count: 100 })
          const later = Effect.replicateEffect(client.database.run("select 1"), round % 4)
          const [{ cancelled }, polls] = yield* Effect.all(
            [Effect.andThen(later, care.cancel({})), Effect.all(stagers, { concurrency: "unbounded" })],
            { concurrency: "unbounded" }
          )
          staged += polls.reduce((n, poll) => n + (poll.staged["default"] ?? 0), 0)
          assert.strictEqual(cancelled, 100)
          assert.lengthOf(events, 100)
          assert.deepStrictEqual(new Set(yield* states), new Set(["cancelled"]))
          assert.lengthOf(yield* all, 100)
          yield* sql`delete from jobs.jobs_history`
        }
        // Now and then the cancel was first.
        assert.isAbove(staged, 0)
      }).pipe(Effect.scoped)
    )
  })

  it.effect("by two at once makes each job available once, and names each queue", () =>
    Effect.gen(function* () {
      const { sql } = yield* setUp
      const stagers = (yield* connections(2)).map((database) => Stage.make(database)([]))
      for (let round = 0; round < 15; round++) {
        for (const queue of ["a", "b", "c"]) yield* insert({ queue, state: "scheduled", count: 50 })
        const polls = yield* Effect.all(stagers, { concurrency: "unbounded" })
        for (const queue of ["a", "b", "c"]) {
          assert.strictEqual(
            polls.reduce((n, { staged }) => n + (staged[queue] ?? 0), 0),
            50
          )
        }
        assert.deepStrictEqual(new Set(yield* states), new Set(["available"]))
        yield* sql`delete from jobs.jobs`
      }
    }).pipe(Effect.scoped)
  )

  it.effect("begins with what was due first, when there is more than one statement takes", () =>
    Effect.gen(function* () {
      const { sql, stage } = yield* setUp
      const late = 500
      yield* sql`
        insert into jobs.jobs (queue, worker, state, scheduled_at)
        select 'default', 'Test', 'scheduled', statement_timestamp() - n * interval '1 second'
          from generate_series(1, ${Stage.batch + late}::int) n`
      // Those that somebody has locked do not count.
      const [, polled] = yield* whileOpen(
        sql,
        sql`select from jobs.jobs order by scheduled_at limit 100 for update`,
        stage
      )
      assert.deepStrictEqual(polled.staged, { default: Stage.batch })
      const [left] = yield* sql<{ readonly n: number; readonly young: number }>`
        select count(*)::int4 as n,
               count(*) filter (where scheduled_at > statement_timestamp() - interval '1 hour')::int4 as young
          from jobs.jobs where state = 'scheduled'`
      assert.deepStrictEqual(left, { n: late, young: late - 100 })
      assert.deepStrictEqual((yield* stage).staged, { default: late })
      assert.deepStrictEqual((yield* stage).staged, {})
    })
  )

  it.effect("by one node wakes the nodes of all queues", () =>
    Effect.gen(function* () {
      const { sql } = yield* setUp
      const server = yield* Postgres.Server
      const runs: Array<Run> = []
      const slow = { pollInterval: "1 minute", lease: "30 seconds" } as const
      const sleepers = [
        yield* liveNode("a", server.url(), runs, { ...slow, queues: { a: 2 } }),
        yield* liveNode("b", server.url(), runs, { ...slow, queues: { b: 2 } })
      ]
      for (const { jobs } of sleepers) {
        yield* eventually("it listens", jobs.status, ({ wakeUp }) => wakeUp === "listen")
      }
      const poller = yield* liveNode("c", server.url(), runs, { pollInterval: "300 millis", queues: { c: 2 } })
      yield* eventually("it listens", poller.jobs.status, ({ wakeUp }) => wakeUp === "listen")
      // Not told to anybody.
      yield* sql`
        insert into jobs.jobs (queue, worker, state, args, scheduled_at)
        select q, 'Task', 'scheduled', '{"millis": 0, "stubborn": false}', statement_timestamp() + interval '200 milliseconds'
          from unnest(array['a', 'b', 'c']) q, generate_series(1, 3)`
      yield* eventually(
        "all run",
        Effect.sync(() => runs.length),
        (n) => n === 9
      )
      assert.deepStrictEqual(runs.map((run) => run.node).toSorted(), ["a", "a", "a", "b", "b", "b", "c", "c", "c"])
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None"), Effect.scoped)
  )
})
