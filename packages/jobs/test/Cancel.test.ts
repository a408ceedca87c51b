import { Jobs, JobsConfig, Worker } from "@coppice/jobs"
import { Pglite } from "@coppice/postgres"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { EmptyDatabase } from "./fixtures/engine.ts"

class Endless extends Worker.Service<Endless>()("Endless", { args: { n: Schema.Int } }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.never))
}

const Virtual = Jobs.layer({ queues: { default: 10 }, workers: [Endless.layer] }).pipe(
  Layer.provideMerge(EmptyDatabase),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)

describe("cancelling a job that runs", () => {
  it.effect("ends it as cancelled, with the reason that was given", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      const enqueued = yield* Endless.enqueue({ n: 1 })
      assert.strictEqual(enqueued._tag, "Inserted")
      yield* Pglite.settle
      assert.deepStrictEqual(yield* jobs.cancel({ worker: "Endless" }, "the tenant has left"), {
        cancelled: 0,
        requested: 1
      })
      yield* Pglite.settle
      const [job] = yield* jobs.list()
      assert.strictEqual(job?.state, "cancelled")
      assert.deepStrictEqual(
        job?.errors.map(({ kind, message }) => [kind, message]),
        [["cancelled", "the tenant has left"]]
      )
    }).pipe(Effect.provide(Virtual))
  )
})
