import { Job, Jobs, JobsConfig, Worker } from "@coppice/jobs"
import { Pglite, Postgres } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Ref, Schema } from "effect"

class Log extends Context.Service<Log, Ref.Ref<ReadonlyArray<string>>>()("test/Log") {
  static readonly layer = Layer.effect(Log, Ref.make<ReadonlyArray<string>>([]))
}

class Greet extends Worker.Service<Greet>()("Greet", { args: { name: Schema.String } }) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const log = yield* Log
      return ({ args, attempt }) =>
        Effect.gen(function* () {
          yield* Ref.update(log, (all) => [...all, `${args.name} ${attempt}`])
          if (args.name === "fails") return yield* Effect.fail("no")
          if (args.name === "dies") return yield* Effect.die("bug")
          if (args.name === "cancels") return yield* Job.cancel("enough")
          if (args.name === "discards") return yield* Job.discard("never")
          if (args.name === "snoozes" && attempt === 1) return yield* Job.snooze("1 hour")
        })
    })
  )
}

const TestJobs = Jobs.layer({ queues: { default: 10 }, workers: [Greet.layer] }).pipe(
  Layer.provideMerge(Log.layer),
  Layer.provideMerge(Postgres.layerTest),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)

describe("Jobs", () => {
  it.effect("runs a job", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const log = yield* Log
      const { id } = yield* Greet.enqueue({ name: "Ada" }).pipe(Effect.filterOrFail((e) => e._tag === "Inserted"))
      yield* Greet.enqueue({ name: "fails" })
      yield* Greet.enqueue({ name: "dies" })
      yield* Greet.enqueue({ name: "cancels" })
      yield* Greet.enqueue({ name: "discards" })
      yield* Pglite.advance("2 seconds")
      assert.deepStrictEqual(yield* Ref.get(log), ["Ada 1", "fails 1", "dies 1", "cancels 1", "discards 1"])
      assert.strictEqual((yield* jobs.get(id)).state, "completed")
      const all = yield* jobs.list()
      assert.deepStrictEqual(
        all.map((job) => [job.state, job.errors.map((e) => `${e.kind}: ${e.message.split("\n")[0]}`)]),
        [
          ["discarded", ["discarded: never"]],
          ["cancelled", ["cancelled: enough"]],
          ["retryable", ["died: Error: bug"]],
          ["retryable", ["failed: Error: no"]],
          ["completed", []]
        ]
      )
    }).pipe(Effect.provide(TestJobs))
  )
})
