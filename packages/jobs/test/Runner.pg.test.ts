import { Jobs, Migrations, Runner, Worker } from "@coppice/jobs"
import { Postgres } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Ref, Schema } from "effect"
import { SqlClient } from "effect/sql"

class Runs extends Context.Service<Runs, Ref.Ref<ReadonlyArray<number>>>()("test/Runs") {
  static readonly layer = Layer.effect(Runs, Ref.make<ReadonlyArray<number>>([]))
}

class Count extends Worker.Service<Count>()("Count", { args: { n: Schema.Int }, queue: "count" }) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const runs = yield* Runs
      const sql = yield* SqlClient.SqlClient
      return ({ args: { n } }) =>
        // Long enough for runners to get in each other's way.
        Effect.andThen(
          sql`select pg_sleep(0.001)`,
          Ref.update(runs, (all) => [...all, n])
        )
    })
  )
}

/** A door that tests open. */
class Door extends Context.Service<
  Door,
  { readonly reached: Deferred.Deferred<void>; readonly open: Deferred.Deferred<void> }
>()("test/Door") {
  static readonly layer = Layer.effect(
    Door,
    Effect.all({ reached: Deferred.make<void>(), open: Deferred.make<void>() })
  )
}

class Waits extends Worker.Service<Waits>()("Waits", { args: {}, queue: "waits" }) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const { open, reached } = yield* Door
      return () => Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(open))
    })
  )
}

const Database = Postgres.layerTestDatabase({
  template: { name: "jobs", migrate: Migrations.run },
  pool: { maxConnections: 8 }
})

const workers = [Count.layer, Waits.layer] as const

const run = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provide(
    effect,
    Runner.layer({ workers, node: "script", migrate: false }).pipe(
      Layer.provideMerge(Layer.mergeAll(Runs.layer, Door.layer))
    ),
    { local: true }
  )

layer(Database, { excludeTestServices: true })("runners on a server", (it) => {
  it.effect("share the work, and run each job once", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const runs = yield* Runs
        const sql = yield* SqlClient.SqlClient
        const all = Array.from({ length: 300 }, (_, n) => n)
        for (let round = 0; round < 3; round++) {
          yield* Ref.set(runs, [])
          yield* Count.enqueueMany(all.map((n) => ({ n })))
          const drained = yield* Effect.all(
            Array.from({ length: 3 }, () => runner.drain({ queue: "count", withRecursion: true, concurrency: 2 })),
            { concurrency: "unbounded" }
          )
          const completed = drained.map((counts) => counts.completed)
          assert.strictEqual(
            completed.reduce((a, b) => a + b),
            300
          )
          assert.deepStrictEqual(
            (yield* Ref.get(runs)).toSorted((a, b) => a - b),
            all
          )
        }
        assert.deepStrictEqual(yield* sql`select id from jobs.jobs where queue = 'count'`, [])
        assert.deepStrictEqual(yield* sql`select id from jobs.nodes`, [])
      })
    )
  )

  it.effect("are nodes while they run, and no longer", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const { open, reached } = yield* Door
        const sql = yield* SqlClient.SqlClient
        yield* Waits.enqueue({})
        const fiber = yield* Effect.forkChild(runner.runOne("waits"))
        yield* Deferred.await(reached)
        assert.deepStrictEqual(
          yield* sql`select n.name, j.state from jobs.jobs j join jobs.nodes n on n.id = j.leased_by`,
          [{ name: "script", state: "executing" }]
        )
        yield* Deferred.succeed(open, undefined)
        assert.strictEqual((yield* Fiber.join(fiber))?.state, "completed")
        assert.deepStrictEqual(yield* sql`select id from jobs.nodes`, [])
      })
    )
  )

  it.effect("wait for whoever has locked a job's row, and write what became of it", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const { open, reached } = yield* Door
        const sql = yield* SqlClient.SqlClient
        const unlock = yield* Deferred.make<void>()
        const locked = yield* Deferred.make<void>()
        yield* Waits.enqueue({})
        const fiber = yield* Effect.forkChild(runner.runOne("waits"))
        yield* Deferred.await(reached)
        const locker = yield* sql`select id from jobs.jobs where queue = 'waits' for update`.pipe(
          Effect.andThen(Deferred.succeed(locked, undefined)),
          Effect.andThen(Deferred.await(unlock)),
          sql.withTransaction,
          Effect.forkChild
        )
        yield* Deferred.await(locked)
        yield* Deferred.succeed(open, undefined)
        yield* sql`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.pipe(
          Effect.repeat({ until: (rows) => rows.length > 0 })
        )
        yield* Deferred.succeed(unlock, undefined)
        yield* Fiber.join(locker)
        assert.strictEqual((yield* Fiber.join(fiber))?.state, "completed")
      })
    )
  )

  it.effect("write nothing of a job that somebody else has by now", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const { open, reached } = yield* Door
        const sql = yield* SqlClient.SqlClient
        yield* Waits.enqueue({})
        const fiber = yield* Effect.forkChild(runner.drain({ queue: "waits" }))
        yield* Deferred.await(reached)
        yield* sql`
          update jobs.jobs set state = 'available', lease = lease + 1, leased_by = null, attempt = 0 where queue = 'waits'`
        yield* Deferred.succeed(open, undefined)
        assert.strictEqual((yield* Fiber.join(fiber)).lost, 1)
        assert.deepStrictEqual(yield* sql`select state, lease::int4 from jobs.jobs where queue = 'waits'`, [
          { state: "available", lease: 2 }
        ])
        yield* sql`delete from jobs.jobs`
      })
    )
  )

  it.effect("interrupt what is to be cancelled, and hand back what they are interrupted in", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const jobs = yield* Jobs.Jobs
        const { reached } = yield* Door
        const sql = yield* SqlClient.SqlClient
        yield* Waits.enqueue({})
        const interrupted = yield* Effect.forkChild(runner.drain({ queue: "waits" }))
        yield* Deferred.await(reached)
        yield* Fiber.interrupt(interrupted)
        assert.deepStrictEqual(yield* sql`select state, attempt from jobs.jobs where queue = 'waits'`, [
          { state: "available", attempt: 0 }
        ])
        assert.deepStrictEqual(yield* sql`select id from jobs.nodes`, [])
        const cancelled = yield* Effect.forkChild(runner.drain({ queue: "waits" }))
        yield* sql`select 1 from jobs.jobs where state = 'executing'`.pipe(
          Effect.repeat({ until: (rows) => rows.length > 0 })
        )
        yield* jobs.cancel({ queue: "waits" })
        assert.strictEqual((yield* Fiber.join(cancelled)).cancelled, 1)
      })
    )
  )

  it.effect("give up what they have when they were declared dead, and go on as another node", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const jobs = yield* Jobs.Jobs
        const { reached } = yield* Door
        const sql = yield* SqlClient.SqlClient
        const [first] = yield* Waits.enqueueMany([{}])
        yield* Count.enqueue({ n: 1 }, { priority: 9 })
        const fiber = yield* Effect.forkChild(runner.drain())
        yield* Deferred.await(reached)
        const [before] = yield* sql<{ readonly id: string }>`select id from jobs.nodes`
        yield* sql`update jobs.nodes set stopped_at = statement_timestamp()`
        yield* sql`update jobs.jobs set lease = lease + 1 where queue = 'waits'`
        // Has the heartbeat look at once.
        yield* jobs.cancel({ state: "executing" })
        yield* Effect.repeat(sql`select id from jobs.nodes where id <> ${before?.id}`, {
          until: (rows) => rows.length > 0
        })
        const counts = yield* Fiber.join(fiber)
        assert.deepStrictEqual([counts.lost, counts.completed], [1, 1])
        assert(first?._tag === "Inserted")
        assert.strictEqual((yield* jobs.get(first.id)).lease, 2)
        yield* sql`delete from jobs.jobs`
        yield* sql`delete from jobs.nodes`
      })
    )
  )

  it.effect("show what they did in a transaction when it has committed", () =>
    run(
      Effect.gen(function* () {
        const runner = yield* Runner.Runner
        const runs = yield* Runs
        const sql = yield* SqlClient.SqlClient
        const { open, reached } = yield* Door
        yield* Count.enqueueMany([{ n: 1 }, { n: 2 }])
        const fiber = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.gen(function* () {
              const { completed } = yield* runner.drain({ queue: "count", concurrency: 5 })
              yield* Deferred.succeed(reached, undefined)
              yield* Deferred.await(open)
              return completed
            })
          )
        )
        yield* Deferred.await(reached)
        assert.deepStrictEqual(yield* Ref.get(runs), [1, 2])
        const states = sql`select state from jobs.jobs where queue = 'count'`
        assert.deepStrictEqual(yield* states, [{ state: "available" }, { state: "available" }])
        // They are locked, so nobody else runs them, and nobody waits for them.
        assert.strictEqual((yield* runner.drain({ queue: "count", withRecursion: true })).completed, 0)
        yield* Deferred.succeed(open, undefined)
        assert.strictEqual(yield* Fiber.join(fiber), 2)
        assert.deepStrictEqual(yield* states, [])
      })
    )
  )
})
