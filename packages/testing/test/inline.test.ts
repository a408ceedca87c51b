import { Jobs, Worker } from "@coppice/jobs"
import { TestJobs } from "@coppice/testing"
import { assert, layer } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Absent, Any, Below, Chain, Database, logged, workers } from "./fixtures/workers.ts"

const Inline = TestJobs.layerInline({ workers }).pipe(Layer.provideMerge(Below))

const run = <A, E>(effect: Effect.Effect<A, E, Layer.Success<typeof Inline>>) =>
  Effect.provide(effect, Inline, { local: true })

const states = Effect.gen(function* () {
  const { list } = yield* Jobs.Jobs
  return (yield* list()).map(({ attempt, state }) => `${state} ${attempt}`).toReversed()
})

const textOf = (exit: Exit.Exit<unknown, unknown>) => (Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "a success")

layer(Database)("inline", (it) => {
  it.effect("runs a job where it is enqueued, with its args as they were stored, and leaves none to be run", () =>
    run(
      Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        yield* Any.enqueue({ ending: "completes" })
        assert.deepStrictEqual(yield* logged, ["completes at 0"])
        const all = yield* jobs.enqueueMany([
          Any.job({ ending: "completes" }, { scheduleIn: "1 day" }),
          Any.job({ ending: "cancels" }, { queue: "other" })
        ])
        assert.deepStrictEqual(
          all.map(({ _tag }) => _tag),
          ["Inserted", "Inserted"]
        )
        assert.deepStrictEqual(yield* states, ["completed 1", "completed 1", "cancelled 1"])
      })
    )
  )

  it.effect("records a failure as discarded, a snooze as cancelled, and the enqueuer goes on", () =>
    run(
      Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        for (const ending of ["fails", "discards", "snoozes", "breaks"] as const) yield* Any.enqueue({ ending })
        assert.deepStrictEqual(
          (yield* jobs.list())
            .map(({ errors, state }) => [
              state,
              ...errors.map(({ kind, message }) => `${kind}: ${message.split("\n")[0]}`)
            ])
            .toReversed()
            .slice(0, 3),
          [
            ["discarded", "failed: Error: no"],
            ["discarded", "discarded: never"],
            ["cancelled", "snoozed: It would run again after 1h, but nothing runs later here"]
          ]
        )
        assert.deepStrictEqual((yield* states)[3], "discarded 1")
        assert.deepStrictEqual(yield* TestJobs.allEnqueued(Any), [])
      })
    )
  )

  it.effect("dies of a defect in a job", () =>
    run(
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Any.enqueue({ ending: "dies" }))
        assert(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.match(Cause.pretty(exit.cause), /a bug/)
        assert.deepStrictEqual(yield* states, ["discarded 1"])
      })
    )
  )

  it.effect("runs jobs of a transaction when it has committed, in order", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* Chain.enqueue({ left: 0 })
            yield* sql.withTransaction(Any.enqueue({ ending: "breaks" }))
            yield* Any.enqueue({ ending: "completes" })
            assert.deepStrictEqual(yield* logged, [])
          })
        )
        assert.deepStrictEqual(yield* logged, ["chain 0 at 0", "breaks at 0", "completes at 0"])
        assert.deepStrictEqual(yield* states, ["completed 1", "discarded 1", "completed 1"])
      })
    )
  )

  it.effect("runs nothing of what is rolled back", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* Effect.exit(sql.withTransaction(Effect.andThen(Any.enqueue({ ending: "fails" }), Effect.fail("no"))))
            yield* Any.enqueue({ ending: "completes" })
          })
        )
        yield* Effect.exit(sql.withTransaction(Effect.andThen(Any.enqueue({ ending: "fails" }), Effect.die("bug"))))
        assert.deepStrictEqual(yield* logged, ["completes at 0"])
        assert.deepStrictEqual(yield* states, ["completed 1"])
      })
    )
  )

  it.effect("ends with the defects of jobs that ran after a commit", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(
        run(
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient
            yield* sql.withTransaction(Any.enqueue({ ending: "dies" }))
            yield* Any.enqueue({ ending: "completes" })
            assert.deepStrictEqual(yield* states, ["discarded 1", "completed 1"])
          })
        )
      )
      assert(Exit.isFailure(exit))
      assert.match(Cause.pretty(exit.cause), /1 job that ran inline after a commit died: Error: a bug/)
    })
  )

  it.effect("runs what jobs enqueue, one inside the other, but not for ever", () =>
    run(
      Effect.gen(function* () {
        yield* Chain.enqueue({ left: 2 })
        assert.deepStrictEqual(yield* logged, ["chain 2 at 0", "chain 1 at 0", "chain 0 at 0"])
        const exit = yield* Effect.exit(Chain.enqueue({ left: 1_000_000 }))
        assert(Exit.isFailure(exit))
        assert.match(
          Cause.pretty(exit.cause),
          /50 jobs run inside one another, and the last one enqueues Chain: does a job enqueue itself\?/
        )
        assert.deepStrictEqual(yield* TestJobs.allEnqueued(Chain), [])
      })
    )
  )

  it.effect("refuses jobs that no worker of the layer runs, before anything is written", () =>
    run(
      Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        for (const exit of [
          yield* Effect.exit(Absent.enqueue({})),
          yield* Effect.exit(jobs.enqueueMany([Any.job({ ending: "completes" }), Absent.job({})]))
        ]) {
          assert.match(textOf(exit), /Absent is not among the workers of this layer.*add its layer/)
        }
        assert.deepStrictEqual(yield* states, [])
      })
    )
  )

  it.effect("refuses bad args as ever, and runs their mates", () =>
    run(
      Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        const bad = Any.job({ ending: "completes", n: 0.5 })
        assert.strictEqual((yield* Effect.flip(jobs.enqueue(bad)))._tag, "InvalidJob")
        const tags = (yield* jobs.enqueueMany([bad, Any.job({ ending: "completes" })])).map(({ _tag }) => _tag)
        assert.deepStrictEqual(tags, ["Rejected", "Inserted"])
        assert.deepStrictEqual(yield* states, ["completed 1"])
      })
    )
  )

  it.effect("does not run a job that conflicts", () => {
    class Once extends Worker.Service<Once>()("Once", { args: { n: Schema.Int }, unique: { states: "all" } }) {
      static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
    }
    const Both = TestJobs.layerInline({ workers: [Once.layer, ...workers] }).pipe(Layer.provideMerge(Below))
    return Effect.gen(function* () {
      const tag = Effect.map(Once.enqueue({ n: 1 }), ({ _tag }) => _tag)
      assert.deepStrictEqual([yield* tag, yield* tag], ["Inserted", "Conflict"])
      assert.deepStrictEqual(yield* states, ["completed 1"])
    }).pipe(Effect.provide(Both, { local: true }))
  })

  it.effect("runs what is made otherwise when it is drained", () =>
    run(
      Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        yield* Any.enqueue({ ending: "fails" })
        yield* jobs.retry({ worker: "Any" })
        const { retryable } = yield* TestJobs.drain()
        assert.strictEqual(retryable, 1)
      })
    )
  )
})
