import { Migrations } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Latch, Layer } from "effect"
import { SqlClient } from "effect/sql"
import * as Claim from "../src/internal/claim.ts"
import * as Database from "../src/internal/database.ts"
import { Engine } from "../src/internal/engine.ts"
import * as Heartbeat from "../src/internal/heartbeat.ts"
import { Hub } from "../src/internal/hub.ts"
import * as Nodes from "../src/internal/nodes.ts"
import { Virtual } from "./fixtures/engine.ts"

const lease = Nodes.lease(Duration.seconds(30))

const Tables = Layer.effectDiscard(Migrations.run).pipe(Layer.provideMerge(Virtual))

const setUp = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const database = yield* Database.make(sql, "jobs", "clock")
  const nodes = Nodes.make(database, lease, 3)
  const claim = Claim.make(database)
  return {
    sql,
    nodes,
    claim: (node: string) => claim("default", 100, node, new Claim.Marks().after(true), []),
    insert: (count: number) => sql`
      insert into jobs.jobs (queue, worker, queued_at)
      select 'default', 'Task', '1969-12-31T00:00:00Z' from generate_series(1, ${count})`
  }
})

describe("what was lost with a node", () => {
  it.effect("is at once available the first time, and comes back at many instants the second", () =>
    Effect.gen(function* () {
      const { claim, insert, nodes, sql } = yield* setUp
      const me = yield* nodes.register("me")
      yield* insert(100)
      for (const expected of ["available", "retryable"]) {
        const node = yield* nodes.register("other")
        assert.lengthOf(yield* claim(node), 100)
        yield* nodes.stop(node)
        const states = new Set((yield* nodes.rescue(me, false)).map(({ state }) => state))
        assert.deepStrictEqual([...states], [expected])
      }
      // One of them may be what kills nodes: the others are not to be beside it for the third time.
      const [found] = yield* sql<{ readonly instants: number; readonly least: number; readonly most: number }>`
        select count(distinct scheduled_at)::int4 as instants,
               min(extract(epoch from scheduled_at))::float8 as least, max(extract(epoch from scheduled_at))::float8 as most
          from jobs.jobs`
      assert.isAtLeast(found?.instants ?? 0, 80)
      assert.isAtLeast(found?.least ?? 0, 7.5)
      assert.isAtMost(found?.most ?? 0, 22.5)
    }).pipe(Effect.provide(Tables))
  )
})

describe("a clock that is set forward", () => {
  it.effect("makes no node dead that nobody has declared dead", () =>
    Effect.gen(function* () {
      const { claim, insert, nodes } = yield* setUp
      const [me, other] = [yield* nodes.register("me"), yield* nodes.register("other")]
      yield* insert(1)
      yield* claim(other)
      yield* Pglite.advance("1 hour")
      // Nobody is forgotten who was not declared dead, however long ago he seems to have been heard of.
      yield* nodes.forget
      // Who was not heard of at this time itself may not judge.
      assert.deepStrictEqual(yield* nodes.rescue(me, true), [])
      assert.isTrue((yield* nodes.beat(other, [], [])).registered)
      assert.isTrue((yield* nodes.beat(me, [], [])).registered)
      assert.deepStrictEqual(yield* nodes.rescue(me, true), [])
      // Who is declared dead stays dead, and its row stays for a while.
      yield* Pglite.advance("1 minute")
      yield* nodes.beat(me, [], [])
      assert.lengthOf(yield* nodes.rescue(me, true), 1)
      yield* nodes.forget
      assert.isFalse((yield* nodes.beat(other, [], [])).registered)
    }).pipe(Effect.provide(Tables))
  )

  it.effect("has a node judge nobody before all have had time to be heard of", () =>
    Effect.gen(function* () {
      const { nodes } = yield* setUp
      const services = yield* Effect.context<never>()
      const engine = new Engine({ name: "me", queues: {}, workers: new Map(), hub: new Hub(services), services })
      let ahead = 0
      // The database's clock, as far as this node can tell.
      const beat: typeof nodes.beat = (...args) =>
        Effect.map(nodes.beat(...args), (answer) => ({ ...answer, time: answer.time + ahead }))
      yield* Heartbeat.register(engine, nodes)
      yield* Effect.forkScoped(
        Heartbeat.run({ engine, nodes: { ...nodes, beat }, lease, asked: Latch.makeUnsafe(false) })
      )
      const steady = () => engine.monotonic() - engine.beats.steadySince >= Duration.toMillis(lease.expiry)
      yield* Pglite.advance("1 minute")
      assert.isTrue(steady())
      ahead = Duration.toMillis("1 hour")
      yield* Pglite.advance(lease.interval)
      assert.isFalse(steady())
      yield* Pglite.advance(Duration.millis(Duration.toMillis(lease.expiry) - 1))
      assert.isFalse(steady())
      yield* Pglite.advance(lease.interval)
      assert.isTrue(steady())
    }).pipe(Effect.provide(Tables))
  )
})
