import { Job, Jobs, JobsConfig, Worker } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Effect, Layer, Ref, Schema } from "effect"
import { EmptyDatabase } from "./fixtures/engine.ts"

class Log extends Context.Service<Log, Ref.Ref<ReadonlyArray<string>>>()("test/Log") {
  static readonly layer = Layer.effect(Log, Ref.make<ReadonlyArray<string>>([]))
}

class Greet extends Worker.Service<Greet>()("Greet", { args: { name: Schema.String } }) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const log = yield* Log
      return ({ args, attempt }) =>
        Effect.gen(function* () {
          const seconds = (yield* Clock.currentTimeMillis) / 1_000
          yield* Ref.update(log, (all) => [...all, `${args.name} ${attempt} at ${seconds}`])
          if (args.name === "fails") return yield* Effect.fail("no")
          if (args.name === "dies") return yield* Effect.die("bug")
          if (args.name === "cancels") return yield* Job.cancel("enough")
          if (args.name === "discards") return yield* Job.discard("never")
          if (args.name === "snoozes" && seconds < 3600) return yield* Job.snooze("1 hour")
        })
    })
  )
}

const Virtual = Jobs.layer({ queues: { default: 10 }, workers: [Greet.layer] }).pipe(
  Layer.provideMerge(Log.layer),
  Layer.provideMerge(EmptyDatabase),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)

describe("Jobs", () => {
  it.effect("end as their handler says", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const log = yield* Log
      for (const name of ["Ada", "fails", "dies", "cancels", "discards", "snoozes"]) yield* Greet.enqueue({ name })
      yield* Pglite.settle
      const told = yield* Ref.get(log)
      assert.deepStrictEqual(told, [
        "Ada 1 at 0",
        "fails 1 at 0",
        "dies 1 at 0",
        "cancels 1 at 0",
        "discards 1 at 0",
        "snoozes 1 at 0"
      ])
      const all = yield* jobs.list()
      assert.deepStrictEqual(
        all.map(({ attempt, errors, state }) => [
          state,
          attempt,
          ...errors.map(({ kind, message }) => `${kind}: ${message.split("\n")[0]}`)
        ]),
        [
          ["scheduled", 0],
          ["discarded", 1, "discarded: never"],
          ["cancelled", 1, "cancelled: enough"],
          ["retryable", 1, "died: Error: bug"],
          ["retryable", 1, "failed: Error: no"],
          ["completed", 1]
        ]
      )
      yield* Pglite.advance("1 hour")
      const later = (yield* Ref.get(log)).slice(told.length)
      assert.include(later, "snoozes 1 at 3600")
      // 15 s + 2^attempt s and up to a tenth more: ten times in an hour.
      assert.strictEqual(later.filter((line) => line.startsWith("fails")).length, 10)
    }).pipe(Effect.provide(Virtual))
  )

  it.effect("run at the instant for which they were scheduled", () =>
    Effect.gen(function* () {
      const log = yield* Log
      yield* Greet.enqueue({ name: "later" }, { scheduleIn: "3 days" })
      yield* Greet.enqueue({ name: "soon" }, { scheduleIn: "1500 millis" })
      yield* Pglite.advance("1499 millis")
      assert.deepStrictEqual(yield* Ref.get(log), [])
      yield* Pglite.advance("1 week")
      assert.deepStrictEqual(yield* Ref.get(log), ["soon 1 at 1.5", `later 1 at ${3 * 24 * 3600}`])
    }).pipe(Effect.provide(Virtual))
  )
})
