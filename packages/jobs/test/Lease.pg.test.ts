import { Jobs, Migrations } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { assert, describe, it, layer } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql"
import * as Claim from "../src/internal/claim.ts"
import * as Nodes from "../src/internal/nodes.ts"
import * as Settle from "../src/internal/settle.ts"
import { apart, liveNode, eventually, now, type Run, task } from "./fixtures/liveNode.ts"
import { proxy } from "./fixtures/proxy.ts"
import { insertOne, Recorder, recorder } from "./fixtures/tables.ts"
import { inserted } from "./fixtures/engine.ts"

const Database = Layer.merge(recorder, Jobs.layerClient).pipe(
  Layer.provideMerge(
    Postgres.layerTestDatabase({ template: { name: "jobs", migrate: Migrations.run }, pool: { maxConnections: 8 } })
  )
)

const empty = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`delete from jobs.jobs`
  yield* sql`delete from jobs.jobs_history`
  yield* sql`delete from jobs.unique_keys`
  yield* sql`delete from jobs.nodes`
  const jobs = yield* Jobs.Jobs
  const server = yield* Postgres.Server
  const runs: Array<Run> = []
  return {
    sql,
    jobs,
    server,
    runs,
    enqueue: (...args: Parameters<typeof task>) => inserted(jobs.enqueue(task(...args)))
  }
})

const seconds = (n: number) => n * 1_000
/** What `liveNode` takes as its lease. */
const ttl = 2_400
/** For a machine that has other things to do. */
const slack = 1_500

const quietly = apart(Database)

describe.concurrent("leases", () => {
  describe("a node that cannot reach the database", () => {
    for (const mode of ["silent", "closed"] as const) {
      it.live(`gives up before others take over, and comes back as another (${mode})`, () =>
        quietly(
          Effect.gen(function* () {
            const { enqueue, jobs, runs, server, sql } = yield* empty
            const way = yield* proxy(server.url())
            const cut = yield* liveNode("cut", way.url, runs)
            const id = yield* enqueue(seconds(60))
            yield* eventually(
              "the job runs",
              Effect.sync(() => runs.length),
              (n) => n === 1
            )
            const other = yield* liveNode("other", server.url(), runs)
            const before = (yield* cut.jobs.status).node?.id
            // Until the other may judge.
            yield* Effect.sleep(ttl)
            const began = now()
            yield* way.set(mode)
            yield* eventually(
              "others take over",
              Effect.sync(() => runs.length),
              (n) => n === 2
            )
            const [first, second] = runs
            assert.strictEqual(second?.node, "other")
            assert.strictEqual(first?.how, "interrupted")
            assert.isAtMost(first?.ended ?? Infinity, second?.started ?? 0)
            assert.isAtMost((second?.started ?? Infinity) - began, ttl + slack)
            assert.isTrue(cut.events.some((event) => event._tag === "LeaseLost" && event.id === id))
            assert.deepInclude(
              other.events.find((event) => event._tag === "Rescued"),
              { id, node: "cut", to: "available" }
            )
            assert.deepInclude(yield* jobs.get(id), { state: "executing", attempt: 2, rescues: 1 })
            yield* way.set("open")
            const after = yield* eventually("it comes back", cut.jobs.status, (status) => status.node?.id !== before)
            yield* other.stop
            const next = yield* enqueue(1)
            yield* eventually("it works again", jobs.get(next), ({ state }) => state === "completed")
            const [node] = yield* sql`select name from jobs.nodes where id = ${after.node?.id} and stopped_at is null`
            assert.deepStrictEqual(node, { name: "cut" })
          })
        )
      )
    }

    it.live("for a moment loses nothing, and neither does anybody when nobody could", () =>
      quietly(
        Effect.gen(function* () {
          const { enqueue, jobs, runs, server } = yield* empty
          const way = yield* proxy(server.url())
          const lease = "4 seconds"
          const nodes = [
            yield* liveNode("one", way.url, runs, { lease }),
            yield* liveNode("two", way.url, runs, { lease })
          ]
          // Until they may judge each other.
          yield* Effect.sleep(lease)
          const ids = yield* Effect.replicateEffect(enqueue(seconds(3)), 6)
          yield* eventually(
            "they run",
            Effect.sync(() => runs.length),
            (n) => n === 6
          )
          yield* way.set("closed")
          yield* Effect.sleep("1200 millis")
          yield* way.set("open")
          for (const id of ids) {
            yield* eventually("it completes", jobs.get(id), ({ state }) => state === "completed")
            assert.deepInclude(yield* jobs.get(id), { attempt: 1, rescues: 0 })
          }
          assert.lengthOf(runs, 6)
          for (const { events } of nodes) {
            assert.deepStrictEqual(
              events.filter(({ _tag }) => _tag === "LeaseLost" || _tag === "Rescued"),
              []
            )
          }
        })
      )
    )
  })

  it.live("a node whose row was deleted gives up its jobs, and they run again under its new id", () =>
    quietly(
      Effect.gen(function* () {
        const { enqueue, jobs, runs, server, sql } = yield* empty
        const one = yield* liveNode("one", server.url(), runs)
        const id = yield* enqueue(seconds(60))
        yield* eventually(
          "it runs",
          Effect.sync(() => runs.length),
          (n) => n === 1
        )
        const before = (yield* one.jobs.status).node?.id
        yield* sql`delete from jobs.nodes`
        yield* eventually(
          "it runs again",
          Effect.sync(() => runs.length),
          (n) => n === 2
        )
        assert.strictEqual(runs[0]?.how, "interrupted")
        assert.notStrictEqual((yield* one.jobs.status).node?.id, before)
        assert.deepInclude(yield* jobs.get(id), { state: "executing", attempt: 2, rescues: 1 })
      })
    )
  )

  it.live("a job that was claimed without an answer comes back with its attempt", () =>
    quietly(
      Effect.gen(function* () {
        const { enqueue, jobs, runs, server, sql } = yield* empty
        const one = yield* liveNode("one", server.url(), runs)
        const id = yield* enqueue(50, { scheduleIn: "1 hour" })
        yield* sql`
          update jobs.jobs set state = 'executing', attempt = 1, lease = 1, leased_by = ${(yield* one.jobs.status).node?.id ?? ""}::uuid,
                 attempted_at = statement_timestamp() - interval '11 seconds'`
        yield* eventually("it completes", jobs.get(id), ({ state }) => state === "completed")
        assert.deepInclude(yield* jobs.get(id), { attempt: 1, rescues: 0, lease: 3 })
      })
    )
  )

  it.live("a rescue that has to wait does not keep the node from saying that it lives", () =>
    quietly(
      Effect.gen(function* () {
        const { enqueue, runs, server, sql } = yield* empty
        const one = yield* liveNode("one", server.url(), runs)
        yield* enqueue(seconds(60))
        yield* eventually(
          "it runs",
          Effect.sync(() => runs.length),
          (n) => n === 1
        )
        yield* sql`
          insert into jobs.jobs (state, queue, worker, attempt, lease, leased_by, unique_key, unique_states)
          values ('executing', 'default', 'Task', 1, 1, gen_random_uuid(), 'k', 4)`
        yield* sql`insert into jobs.unique_keys (key, job_id, states) select unique_key, id, 4 from jobs.jobs where unique_key is not null`
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`select from jobs.unique_keys for update`
            yield* Effect.sleep(2 * ttl)
            const age = Duration.toMillis((yield* one.jobs.status).heartbeatAge ?? Duration.infinity)
            assert.isBelow(age, ttl / 2)
          })
        )
        assert.deepStrictEqual(
          one.events.filter(({ _tag }) => _tag === "LeaseLost"),
          []
        )
      })
    )
  )
})

const statements = Effect.gen(function* () {
  const { sql } = yield* empty
  const { client } = yield* Recorder
  const nodes = Nodes.make(client.database, Nodes.lease(Duration.seconds(30)), 3)
  const claim = Claim.make(client.database)
  const settle = Settle.make(client.database)
  /** Nobody has heard of a node for a minute. */
  const kill = (id: string) =>
    sql`update jobs.nodes set heartbeat_at = statement_timestamp() - interval '1 minute' where id = ${id}::uuid`
  return {
    sql,
    nodes,
    settle,
    kill,
    claim: (node: string) => claim("default", 10, node, new Claim.Marks().after(true), [])
  }
})

layer(Database, { excludeTestServices: true })("the statements", (it) => {
  it.effect("a poison job is discarded after three nodes, and each loss is told", () =>
    Effect.gen(function* () {
      const { claim, kill, nodes, sql } = yield* statements
      const jobs = yield* Jobs.Jobs
      const me = yield* nodes.register("me")
      const id = yield* insertOne({ worker: "Poison" })
      const ends: Array<string> = []
      for (const name of ["a", "b", "c"]) {
        const node = yield* nodes.register(name)
        yield* sql`update jobs.jobs set state = 'available' where state = 'retryable'`
        assert.lengthOf(yield* claim(node), 1)
        assert.deepStrictEqual(yield* nodes.rescue(me, true), [])
        yield* kill(node)
        ends.push(...(yield* nodes.rescue(me, true)).map(({ state }) => state))
        assert.deepStrictEqual(yield* nodes.rescue(me, true), [])
      }
      assert.deepStrictEqual(ends, ["available", "retryable", "discarded"])
      // The number of a row that was inserted is an id.
      const job = yield* jobs.get(id as Parameters<typeof jobs.get>[0])
      assert.deepInclude(job, { state: "discarded", rescues: 3, attempt: 3, lease: 6 })
      assert.deepStrictEqual(
        job.errors.map(({ attempt, kind, node }) => [attempt, kind, node]),
        [
          [1, "node lost", "a"],
          [2, "node lost", "b"],
          [3, "node lost", "c"]
        ]
      )
    })
  )

  it.effect("a node that was not heard of itself takes nothing from others", () =>
    Effect.gen(function* () {
      const { claim, kill, nodes } = yield* statements
      const [me, other] = [yield* nodes.register("me"), yield* nodes.register("other")]
      yield* insertOne({ worker: "Task" })
      yield* claim(other)
      // As after a time in which the server stood still.
      yield* kill(me)
      yield* kill(other)
      assert.deepStrictEqual(yield* nodes.rescue(me, true), [])
      // Nor is it dead itself: nobody has said so.
      assert.isTrue((yield* nodes.beat(me, [], [])).registered)
    })
  )

  it.effect("a zombie's settle is refused, many times over", () =>
    Effect.gen(function* () {
      const { claim, kill, nodes, settle, sql } = yield* statements
      const me = yield* nodes.register("me")
      for (let round = 0; round < 20; round++) {
        const zombie = yield* nodes.register("zombie")
        const id = yield* insertOne({ worker: "Task" })
        const [first] = yield* claim(zombie)
        yield* kill(zombie)
        yield* nodes.rescue(me, true)
        const lease = first?.lease ?? 0
        // Before and after somebody else has it.
        for (let when = 0; when < 2; when++) {
          assert.deepStrictEqual(yield* settle.complete([id], [lease], false), [])
          assert.deepStrictEqual(yield* settle.settle([{ id, lease, to: "discarded" }]), [])
          assert.deepStrictEqual((yield* nodes.beat(me, [id], [lease])).lost, [id])
          if (when === 0) assert.lengthOf(yield* claim(me), 1)
        }
        assert.deepStrictEqual(yield* settle.complete([id], [lease + 2], false), [id])
        yield* sql`delete from jobs.jobs_history`
      }
    })
  )

  it.effect("of a rescue and a settle at the same time one happens, whichever comes first", () =>
    Effect.gen(function* () {
      const { claim, kill, nodes, settle, sql } = yield* statements
      const me = yield* nodes.register("me")
      for (let round = 0; round < 10; round++) {
        for (const order of ["rescue first", "settle first"] as const) {
          const node = yield* nodes.register("other")
          const id = yield* insertOne({ worker: "Task" })
          const [row] = yield* claim(node)
          yield* kill(node)
          const rescue = Effect.map(nodes.rescue(me, true), (rescued) => rescued.length)
          const complete = Effect.map(settle.complete([id], [row?.lease ?? 0], false), (ids) => ids.length)
          const [first, second] = order === "rescue first" ? [rescue, complete] : [complete, rescue]
          const done = yield* Deferred.make<void>()
          const go = yield* Deferred.make<void>()
          const one = yield* Effect.forkChild(
            sql.withTransaction(
              Effect.tap(first, () => Effect.andThen(Deferred.succeed(done, undefined), Deferred.await(go)))
            )
          )
          yield* Deferred.await(done)
          const two = yield* Effect.forkChild(second)
          // A rescue does not wait; a settle does.
          if (order === "rescue first") {
            yield* eventually(
              "the settle waits",
              sql`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
              (rows) => rows.length === 1
            )
          } else yield* Fiber.await(two)
          yield* Deferred.succeed(go, undefined)
          assert.deepStrictEqual([yield* Fiber.join(one), yield* Fiber.join(two)], [1, 0])
          const [left] = yield* sql`select count(*)::int4 as n from jobs.jobs`
          assert.deepStrictEqual(left, { n: order === "rescue first" ? 1 : 0 })
          yield* sql`delete from jobs.jobs`
        }
      }
    })
  )
})
