import { assert, describe, layer } from "@effect/vitest"
import { Jobs, Migrations, Worker } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { Context, Duration, Effect, Fiber, Layer, References } from "effect"
import * as Care from "../src/internal/care.ts"
import * as Claim from "../src/internal/claim.ts"
import { Engine } from "../src/internal/engine.ts"
import { Hub } from "../src/internal/hub.ts"
import * as Nodes from "../src/internal/nodes.ts"
import * as Settle from "../src/internal/settle.ts"
import * as Settler from "../src/internal/settler.ts"
import { inserted } from "./fixtures/engine.ts"
import { eventually, liveNode, type Run, task } from "./fixtures/liveNode.ts"
import { clear, inOrder, whileOpen } from "./fixtures/races.ts"
import { all, insert, Recorder, recorder } from "./fixtures/tables.ts"

const tables = Layer.merge(recorder, Jobs.layerClient).pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 6 } })
  )
)

const destinations = ["completed", "cancelled", "discarded", "retryable", "scheduled", "available"] as const

const setUp = Effect.gen(function* () {
  const sql = yield* clear
  const { client } = yield* Recorder
  const { database } = client
  const nodes = Nodes.make(database, Nodes.lease(Duration.seconds(30)), 3)
  const claim = Claim.make(database)
  const settle = Settle.make(database)
  const me = yield* nodes.register("me")
  const general = (id: number, lease: number, to: Settle.Destination): Effect.Effect<ReadonlyArray<string>, unknown> =>
    Effect.gen(function* () {
      const [settled] = yield* settle.settle([{ id, lease, to, delayMillis: 60_000 }])
      if (settled !== undefined) return [settled.state]
      // Passed over because somebody had locked it, as the settler sees it.
      const ours = yield* settle.present([id], [lease])
      return ours.has(id) ? yield* Effect.andThen(Effect.sleep(5), general(id, lease, to)) : []
    })
  return {
    sql,
    database,
    settle,
    me,
    care: Care.make(client),
    /** A job that a node has claimed, of which nobody has heard for a minute. */
    claimed: Effect.gen(function* () {
      yield* clear
      yield* sql`
        insert into jobs.nodes (id, name, started_at, heartbeat_at)
        values (${me}::uuid, 'me', statement_timestamp(), statement_timestamp())`
      yield* insert()
      const node = yield* nodes.register("other")
      const [row] = yield* claim("default", 1, node, new Claim.Marks().after(true), [])
      yield* sql`update jobs.nodes set heartbeat_at = statement_timestamp() - interval '1 minute' where id = ${node}::uuid`
      return row ?? assert.fail("nothing was claimed")
    }),
    reclaim: Effect.map(
      Effect.suspend(() => claim("default", 1, me, new Claim.Marks().after(true), [])),
      ([row]) => row ?? assert.fail("nothing was claimed")
    ),
    rescue: Effect.map(nodes.rescue(me, true), (rescued) => rescued.map(({ state }) => state)),
    /** Both ways to write an end; what was written. */
    ways: {
      complete: (id: number, lease: number): Effect.Effect<ReadonlyArray<string>, unknown> =>
        Effect.map(settle.complete([id], [lease], false), (ids) => ids.map(() => "completed")),
      settle: (id: number, lease: number) => general(id, lease, "completed")
    },
    general,
    /** Everything there is of all jobs. */
    everything: database.run<object>(
      `select to_jsonb(j) as row from jobs.jobs j union all select to_jsonb(j) from jobs.jobs_history j`
    )
  }
})

const states = Effect.map(all, (rows) => rows.map(({ state }) => state))

layer(tables, { excludeTestServices: true })("the end of a job", (it) => {
  describe("that a frozen node writes", () => {
    for (const to of destinations) {
      it.effect(`changes nothing, before and after another node has the job (${to})`, () =>
        Effect.gen(function* () {
          const { claimed, everything, general, me, reclaim, rescue, settle } = yield* setUp
          const { id, lease } = yield* claimed
          assert.deepStrictEqual(yield* rescue, ["available"])
          for (const when of ["rescued", "claimed", "over"]) {
            const next = when === "claimed" ? yield* reclaim : undefined
            const before = yield* everything
            assert.deepStrictEqual(yield* general(id, lease, to), [])
            assert.deepStrictEqual(yield* settle.complete([id], [lease], false), [])
            // Nor one that never was, from the future.
            assert.deepStrictEqual(yield* general(id, lease + 7, to), [])
            assert.deepStrictEqual(yield* everything, before)
            if (next === undefined) continue
            assert.deepStrictEqual([next.id, next.lease, next.attempt], [id, lease + 2, 2])
            assert.deepStrictEqual(yield* settle.complete([id], [next.lease], false), [id])
            // Once is all there is.
            assert.deepStrictEqual(yield* settle.complete([id], [next.lease], false), [])
            const [end] = yield* all
            assert.deepStrictEqual(end, { id, state: "completed", attempt: 2 })
          }
          assert.isNotEmpty(me)
        })
      )
    }
  })

  for (const way of ["complete", "settle"] as const) {
    it.effect(`and a rescue are one or the other, in both orders (${way})`, () =>
      Effect.gen(function* () {
        const { claimed, rescue, sql, ways } = yield* setUp
        for (let round = 0; round < 10; round++) {
          const one = yield* claimed
          assert.deepStrictEqual(yield* inOrder(sql, rescue, ways[way](one.id, one.lease)), [["available"], []])
          assert.deepStrictEqual(yield* states, ["available"])
          const two = yield* claimed
          // A rescue does not even wait.
          const [end, rescued] = yield* whileOpen(
            sql,
            ways[way](two.id, two.lease),
            Effect.timeout(rescue, "5 seconds")
          )
          assert.deepStrictEqual([end, rescued], [["completed"], []])
          assert.deepStrictEqual(yield* rescue, [])
          assert.deepStrictEqual(yield* states, ["completed"])
          // And without anybody who orders them.
          const three = yield* claimed
          const [a, b] = yield* Effect.all([rescue, ways[way](three.id, three.lease)], { concurrency: "unbounded" })
          assert.lengthOf([...a, ...b], 1)
          assert.deepStrictEqual(yield* states, [...a, ...b])
        }
      })
    )
  }

  it.effect("is not changed by a cancel that comes while it is written, nor by one that comes later", () =>
    Effect.gen(function* () {
      const { care, claimed, general, settle, sql } = yield* setUp
      const ends = { completed: "completed", discarded: "discarded", cancelled: "cancelled" } as const
      for (const to of Object.values(ends)) {
        const { id, lease } = yield* claimed
        const [end, cancelled] = yield* inOrder(sql, general(id, lease, to), care.cancel({}))
        assert.deepStrictEqual(end, [to])
        assert.deepStrictEqual(cancelled, { cancelled: 0, requested: 0 })
        assert.deepStrictEqual(yield* care.cancel({}), { cancelled: 0, requested: 0 })
        assert.deepStrictEqual(yield* states, [to])
      }
      const { id, lease } = yield* claimed
      const [ids, cancelled] = yield* inOrder(sql, settle.complete([id], [lease], false), care.cancel({}))
      assert.deepStrictEqual([ids, cancelled], [[id], { cancelled: 0, requested: 0 }])
      const [row] = yield* sql`
        select state, cancel_requested_at is null as unasked, errors from jobs.jobs_history where id = ${id}`
      assert.deepStrictEqual(row, { state: "completed", unasked: true, errors: [] })
    })
  )

  it.effect("comes after a cancel that was first: a success counts, and what would run again is cancelled", () =>
    Effect.gen(function* () {
      const { care, claimed, general, sql } = yield* setUp
      for (const to of destinations) {
        const { id, lease } = yield* claimed
        const [cancelled, end] = yield* inOrder(sql, care.cancel({}, "enough"), general(id, lease, to))
        assert.deepStrictEqual(cancelled, { cancelled: 0, requested: 1 })
        const left = to === "completed" || to === "discarded" ? to : "cancelled"
        assert.deepStrictEqual(end, [left], to)
        assert.deepStrictEqual(yield* states, [left], to)
      }
    })
  )

  it.effect("is only asked for by a cancel of an executing job, and made by the rescue if its node is gone", () =>
    Effect.gen(function* () {
      const { care, claimed, rescue, sql } = yield* setUp
      const { id, lease } = yield* claimed
      const fields = sql`select state, lease::int4 as lease, attempt, leased_by, errors from jobs.jobs`
      const before = yield* fields
      for (const reason of ["first", "second"]) {
        assert.deepStrictEqual(yield* care.cancel({ id: id as never }, reason), { cancelled: 0, requested: 1 })
        assert.deepStrictEqual(yield* fields, before)
      }
      const [asked] = yield* sql`select cancel_reason, cancel_requested_at is not null as asked from jobs.jobs`
      assert.deepStrictEqual(asked, { cancel_reason: "first", asked: true })
      assert.deepStrictEqual(yield* rescue, ["cancelled"])
      const [end] = yield* sql`
        select state, lease::int4 as lease, rescues, errors -> -1 ->> 'kind' as kind from jobs.jobs_history`
      assert.deepStrictEqual(end, { state: "cancelled", lease: lease + 1, rescues: 1, kind: "node lost" })
      assert.deepStrictEqual(yield* states, ["cancelled"])
    })
  )

  // ------------------------------------------------------------------------------------------------------------------

  class Test extends Worker.Service<Test>()("Test", { args: {} }) {}

  for (const [name, poison] of Object.entries({ "a NUL": "a\u0000b", "a lone surrogate": "a\ud83eb" })) {
    it.effect(`with ${name} in it is refused by the database, and harms no other of its batch`, () =>
      Effect.gen(function* () {
        const { database, me, settle, sql } = yield* setUp
        yield* insert({ count: 40 })
        const rows = yield* Claim.make(database)("default", 40, me, new Claim.Marks().after(true), [])
        const bad = new Set([rows[7]?.id, rows[31]?.id])
        const lines = rows.map(({ id, lease }): Settle.Line => {
          const message = bad.has(id) ? poison : "boom"
          return { id, lease, to: "retryable", delayMillis: 60_000, error: { kind: "failed", message, node: "me" } }
        })
        const refused = yield* Effect.flip(settle.settle(lines))
        const { cause } = refused.reason
        assert.match(String(typeof cause === "object" && cause !== null && "code" in cause && cause.code), /^22P0[25]$/)
        const [untouched] = yield* sql`select count(*)::int4 as n from jobs.jobs where state = 'executing'`
        assert.deepStrictEqual(untouched, { n: 40 })

        const context = yield* Layer.build(Test.toLayer(Effect.succeed(() => Effect.never)))
        const services = yield* Effect.context<never>()
        const engine = new Engine({
          name: "me",
          queues: { default: { limit: 40 } },
          workers: new Map([["Test", Context.get(context, Test)]]),
          hub: new Hub(services),
          services
        })
        engine.registered = true
        engine.id = me
        const queue = engine.queues.get("default") ?? assert.fail()
        engine.take(queue, rows, engine.epoch)
        const byId = new Map(lines.map((line) => [line.id, line]))
        for (const held of engine.held.values()) {
          const line = byId.get(held.row.id) ?? assert.fail()
          engine.unwritten.push({
            held,
            verdict: { line, kind: "failed", message: "", delay: Duration.minutes(1), size: 100 },
            durationMillis: 1,
            notBefore: 0
          })
        }
        const settler = yield* Effect.forkChild(Settler.run(engine, settle), { startImmediately: true })
        yield* eventually(
          "all are written",
          Effect.sync(() => engine.unwritten.length),
          (n) => n === 0
        )
        yield* Fiber.interrupt(settler)
        const written = yield* sql<{ readonly id: number; readonly state: string; readonly message: string }>`
          select id::float8 as id, state, errors -> 0 ->> 'message' as message from jobs.jobs order by id`
        assert.lengthOf(written, 40)
        for (const { id, message, state } of written) {
          assert.strictEqual(state, "retryable")
          assert.strictEqual(message, bad.has(id) ? "What the attempt ended with could not be stored" : "boom")
        }
        for (const held of engine.held.values()) held.fiber?.interruptUnsafe()
      }).pipe(Effect.provideService(References.MinimumLogLevel, "None"), Effect.scoped)
    )

    it.effect(`with ${name} in args that are enqueued is refused alone`, () =>
      Effect.gen(function* () {
        yield* setUp
        const jobs = yield* Jobs.Jobs
        const answers = yield* jobs.enqueueMany([task(1), task(2, { tags: [poison] }), task(3)])
        assert.deepStrictEqual(
          answers.map(({ _tag }) => _tag),
          ["Inserted", "Rejected", "Inserted"]
        )
        assert.lengthOf(yield* all, 2)
      })
    )
  }

  // ------------------------------------------------------------------------------------------------------------------

  const gate = (what: string) =>
    Effect.gen(function* () {
      const { sql } = yield* setUp
      const jobs = yield* Jobs.Jobs
      const server = yield* Postgres.Server
      const runs: Array<Run> = []
      const node = yield* liveNode("one", server.url(), runs, { queues: { default: 50 }, lease: "10 seconds" })
      const ids = yield* Effect.map(jobs.enqueueMany(Array.from({ length: 49 }, () => task(800))), (answers) =>
        answers.flatMap((answer) => (answer._tag === "Inserted" ? [answer.id] : []))
      )
      const locked = yield* inserted(jobs.enqueue(task(800)))
      const finished = Effect.map(
        sql<{ readonly n: number }>`select count(*)::int4 as n from jobs.jobs_history`,
        ([row]) => row?.n ?? 0
      )
      yield* eventually(
        "they run",
        Effect.sync(() => runs.length),
        (n) => n === 50
      )
      const lock: Effect.Effect<unknown, unknown> =
        what === "cancel" ? jobs.cancel({ id: locked }) : sql`select from jobs.jobs where id = ${locked} for update`
      yield* whileOpen(
        sql,
        lock,
        Effect.gen(function* () {
          yield* eventually(
            "all handlers have ended",
            Effect.sync(() => runs.filter(({ how }) => how === "succeeded").length),
            (n) => n === 50
          )
          yield* eventually("the others are in the history", finished, (n) => n === 49, 1_500)
          // New ones come and go as well.
          const next = yield* inserted(jobs.enqueue(task(0)))
          yield* eventually("a new one ends", jobs.get(next), ({ state }) => state === "completed", 1_500)
          assert.deepInclude(yield* jobs.get(locked), { state: "executing", attempt: 1 })
          assert.deepStrictEqual(
            new Set((yield* jobs.list({ id: ids })).map(({ state }) => state)),
            new Set(["completed"])
          )
        })
      )
      yield* eventually("the locked one ends too", jobs.get(locked), ({ state }) => state === "completed", 5_000)
      assert.lengthOf(runs, 51)
      assert.deepStrictEqual(
        node.events.filter(({ _tag }) => _tag === "LeaseLost"),
        []
      )
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None"), Effect.scoped)

  for (const what of ["cancel", "select for update"]) {
    it.effect(`of a job that a transaction has locked (${what}) does not delay the completion of others`, () =>
      gate(what)
    )
  }
})
