import { Jobs, type Runner, Worker } from "@coppice/jobs"
import { TestJobs } from "@coppice/testing"
import { assert, layer } from "@effect/vitest"
import { Cause, DateTime, Effect, Exit, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { Absent, Any, Below, Chain, Database, logged, workers, write } from "./fixtures/workers.ts"

/** Enqueues a job a day, for ever. */
class Daily extends Worker.Service<Daily>()("Daily", { args: {} }) {
  static readonly layer = this.toLayer(
    Effect.succeed(() => Effect.andThen(write("daily"), Effect.orDie(Daily.enqueue({}, { scheduleIn: "1 day" }))))
  )
}

/** Enqueues another at once, for ever. */
class Mad extends Worker.Service<Mad>()("Mad", { args: {} }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Mad.enqueue({})))
}

class Nightly extends Worker.Service<Nightly>()("Nightly", { args: {} }) {
  static readonly layer = this.toLayer(
    Effect.succeed(({ cron }) =>
      write(cron === undefined ? "no cron" : `${cron.name} of ${DateTime.formatIso(cron.at)}`)
    )
  )
}

const Manual = TestJobs.layerManual({
  workers: [...workers, Daily.layer, Mad.layer, Nightly.layer] as const
}).pipe(Layer.provideMerge(Below), Layer.provideMerge(Layer.effectDiscard(TestClock.setTime(0))))

const run = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Manual, { local: true })

const none: Runner.Drained = {
  completed: 0,
  retryable: 0,
  discarded: 0,
  cancelled: 0,
  snoozed: 0,
  lost: 0,
  unclaimable: 0
}

layer(Database)("manual", (it) => {
  it.effect("runs nothing until it is told to", () =>
    run(
      Effect.gen(function* () {
        yield* Any.enqueue({ ending: "completes" })
        yield* TestClock.adjust("1 day")
        assert.deepStrictEqual(yield* logged, [])
        assert.deepStrictEqual(yield* TestJobs.drain(), { ...none, completed: 1 })
        assert.deepStrictEqual(yield* logged, ["completes at 1d"])
      })
    )
  )

  it.effect("drains with the options of the runner", () =>
    run(
      Effect.gen(function* () {
        yield* Chain.enqueue({ left: 1 })
        yield* Any.enqueue({ ending: "dies" }, { queue: "other", scheduleIn: "1 hour" })
        yield* Absent.enqueue({})
        assert.deepStrictEqual(yield* TestJobs.drain({ queue: "default", withRecursion: true }), {
          ...none,
          completed: 2,
          unclaimable: 1
        })
        const error = yield* Effect.flip(TestJobs.drain({ withScheduled: true, withSafety: false }))
        assert.match(error.message, /^Job \d+ of Any failed at attempt 1: Error: a bug/)
      })
    )
  )

  it.effect("leaves nothing behind in a sandbox", () =>
    Effect.gen(function* () {
      yield* run(Effect.andThen(Any.enqueue({ ending: "completes" }), TestJobs.drain()))
      const sql = yield* SqlClient.SqlClient
      for (const table of ["jobs", "jobs_history", "nodes", "unique_keys"]) {
        assert.deepStrictEqual(yield* sql`select * from ${sql(`jobs.${table}`)}`, [], table)
      }
    })
  )
})

layer(Database)("advance", (it) => {
  it.effect("runs each job at the instant at which it is due, retries and snoozed ones too", () =>
    run(
      Effect.gen(function* () {
        yield* Any.enqueue({ ending: "completes" })
        yield* Any.enqueue({ ending: "fails" }, { scheduleIn: "1 hour" })
        yield* Any.enqueue({ ending: "snoozes" }, { scheduleIn: "30 minutes" })
        assert.deepStrictEqual(yield* TestJobs.advance("10 minutes"), { ...none, completed: 1 })
        assert.deepStrictEqual(yield* TestJobs.advance("2 hours"), { ...none, retryable: 3, discarded: 1, snoozed: 2 })
        assert.deepStrictEqual(yield* logged, [
          "completes at 0",
          "snoozes at 30m",
          "fails at 1h",
          "fails at 1h 10m",
          "fails at 1h 30m",
          "snoozes at 1h 30m",
          "fails at 2h"
        ])
      })
    )
  )

  it.effect("runs what is due now, and what is due at its end", () =>
    run(
      Effect.gen(function* () {
        yield* Any.enqueue({ ending: "completes" })
        assert.deepStrictEqual(yield* TestJobs.advance(0), { ...none, completed: 1 })
        yield* Any.enqueue({ ending: "completes" }, { scheduleIn: "1 hour" })
        assert.deepStrictEqual(yield* TestJobs.advance("59 minutes"), none)
        assert.deepStrictEqual(yield* TestJobs.advance("1 minute"), { ...none, completed: 1 })
      })
    )
  )

  it.effect("lets weeks of a daily job pass", () =>
    run(
      Effect.gen(function* () {
        yield* Daily.enqueue({})
        assert.deepStrictEqual(yield* TestJobs.advance("8 weeks"), { ...none, completed: 57 })
      })
    )
  )

  it.effect("wakes jobs that sleep, and goes on with them the next time", () =>
    run(
      Effect.gen(function* () {
        yield* Any.enqueue({ ending: "sleeps" })
        yield* Any.enqueue({ ending: "completes" })
        assert.deepStrictEqual((yield* TestJobs.advance("1 hour")).completed, 0)
        assert.deepStrictEqual(yield* logged, ["sleeps at 0", "completes at 0"])
        assert.deepStrictEqual((yield* TestJobs.advance("1 hour")).completed, 2)
        assert.deepStrictEqual(yield* logged, ["sleeps at 0", "completes at 0", "woke at 1h 30m"])
      })
    )
  )

  it.effect("runs what other fibers enqueue meanwhile, at once", () =>
    run(
      Effect.gen(function* () {
        yield* Effect.forkChild(Effect.delay(Any.enqueue({ ending: "completes" }), "20 minutes"))
        yield* Effect.forkChild(
          Effect.delay(Any.enqueue({ ending: "completes" }, { scheduleIn: "5 minutes" }), "40 minutes")
        )
        assert.deepStrictEqual(yield* TestJobs.advance("1 hour"), { ...none, completed: 2 })
        assert.deepStrictEqual(yield* logged, ["completes at 20m", "completes at 45m"])
      })
    )
  )

  it.effect("refuses to run in a transaction", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const exit = yield* Effect.exit(sql.withTransaction(TestJobs.advance("1 hour")))
        assert(Exit.isFailure(exit))
        assert.match(Cause.pretty(exit.cause), /Time cannot advance inside a transaction/)
      })
    )
  )

  it.effect("says so when jobs enqueue jobs for ever at one instant", () =>
    run(
      Effect.gen(function* () {
        yield* Mad.enqueue({})
        const error = yield* Effect.flip(TestJobs.advance("1 hour"))
        assert.strictEqual(error._tag, "Endless")
      })
    )
  )
})

layer(Database)("advance with a crontab", (it) => {
  const WithCron = TestJobs.layerManual({
    workers: [Nightly.layer, Any.layer],
    cron: [{ name: "nightly", expression: "0 3 * * *", job: Nightly.job({}), timeZone: "Europe/Berlin" }]
  }).pipe(Layer.provideMerge(Below), Layer.provideMerge(Layer.effectDiscard(TestClock.setTime(0))))

  it.effect("runs the job of each instant, of static entries and of those made at run time", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      yield* TestJobs.advance("1 hour")
      yield* jobs.cron.create({ name: "hourly", expression: "30 1,2 * * *", job: Any.job({ ending: "completes" }) })
      assert.deepStrictEqual(yield* TestJobs.advance("2 days"), { ...none, completed: 6 })
      assert.deepStrictEqual(yield* logged, [
        "completes at 1h 30m",
        "nightly of 1970-01-01T02:00:00.000Z at 2h",
        "completes at 2h 30m",
        "completes at 1d 1h 30m",
        "nightly of 1970-01-02T02:00:00.000Z at 1d 2h",
        "completes at 1d 2h 30m"
      ])
      yield* jobs.cron.pause("hourly")
      assert.deepStrictEqual(yield* TestJobs.advance("2 days"), { ...none, completed: 2 })
    }).pipe(Effect.provide(WithCron, { local: true }))
  )

  it.effect("makes jobs when it is drained", () =>
    Effect.gen(function* () {
      yield* TestClock.adjust("1 day")
      yield* TestJobs.drain()
      yield* TestClock.setTime(26 * 60 * 60 * 1_000)
      assert.deepStrictEqual(yield* TestJobs.drain(), { ...none, completed: 1 })
    }).pipe(Effect.provide(WithCron, { local: true }))
  )
})
