import { Jobs, JobsConfig, Runner, Worker } from "@coppice/jobs"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { EmptyDatabase } from "./fixtures/engine.ts"

const worker = (definition: { readonly priority?: number; readonly queue?: string; readonly maxAttempts?: number }) => {
  class Odd extends Worker.Service<Odd>()("Odd", { args: {}, ...definition }) {
    static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
  }
  return Odd.layer
}

const start = (options: Partial<Jobs.Options<ReadonlyArray<ReturnType<typeof worker>>>>) =>
  Layer.build(Jobs.layer({ queues: { default: 10 }, workers: [worker({})], ...options })).pipe(
    Effect.scoped,
    Effect.flip,
    Effect.map(({ message }) => message)
  )

const runner = (workers: ReadonlyArray<ReturnType<typeof worker>>, node?: string) =>
  Effect.scoped(Layer.build(Runner.layer({ workers, node })))

layer(EmptyDatabase.pipe(Layer.provideMerge(Layer.succeed(JobsConfig.TimeSource, "clock"))))(
  "a node whose options make no sense does not start, and says why",
  (it) => {
    describe("it refuses", () => {
      for (const [name, options, expected] of [
        [
          "a worker's priority",
          { workers: [worker({ priority: 12 })] },
          "options.priority must be an integer from 0 to 9"
        ],
        ["a worker's queue without a name", { workers: [worker({ queue: "" })] }, "options.queue must be a text"],
        ["no attempts", { workers: [worker({ maxAttempts: 0 })] }, "options.maxAttempts must be an integer from 1"],
        ["a lease that never ends", { lease: Infinity }, "lease is Infinity"],
        ["a lease too short to be renewed", { lease: "999 millis" }, "lease is 999ms, and must be at least 1s"],
        ["a poll without a pause", { pollInterval: 0 }, "pollInterval is 0, and must be at least 10ms"],
        ["a poll that spins", { pollInterval: "9 millis" }, "pollInterval is 9ms"],
        ["a grace of minus a second", { shutdownGrace: -1_000 }, "shutdownGrace is -1000, and must be a duration"],
        ["a node whose name is that of all nodes", { node: "" }, "node must be a text that is not empty"],
        ["a node whose name PostgreSQL cannot hold", { node: "a\u0000b" }, "node "],
        ["a node with too long a name", { node: "n".repeat(256) }, "node is longer than 255 characters"],
        ["no connections", { connections: 0 }, "connections is 0"],
        ["half a rescue", { maxRescues: 0.5 }, "maxRescues is 0.5"],
        [
          "two workers of one name",
          { workers: [worker({}), worker({})] },
          'workers has two workers called "Odd": jobs'
        ],
        ["a queue with a negative limit", { queues: { default: -1 } }, 'Queue "default"'],
        ["a retention of minus a day", { retention: { completed: { age: -86_400_000 } } }, "completed.age"]
      ] as const) {
        it.effect(name, () => Effect.map(start(options), (message) => assert.include(message, expected)))
      }
      it.effect("two workers of one name for a runner, and a runner whose name PostgreSQL cannot hold", () =>
        Effect.gen(function* () {
          const same = yield* Effect.flip(runner([worker({}), worker({})]))
          assert.include(same.message, 'workers has two workers called "Odd"')
          const nameless = yield* Effect.flip(runner([worker({})], "a\u0000b"))
          assert.include(nameless.message, "node ")
        })
      )
      it.effect("a schema with a quote in its name", () =>
        start({}).pipe(
          Effect.provideService(JobsConfig.SchemaName, 'a"b'),
          Effect.map((message) => assert.include(message, "cannot be the schema of a job queue"))
        )
      )
      it.effect("a cron entry that never fires", () =>
        Effect.map(
          start({
            cron: [
              {
                name: "never",
                expression: "0 0 30 2 *",
                job: class extends Worker.Service<never>()("Any", { args: { n: Schema.Int } }) {}.job({ n: 1 })
              }
            ]
          }),
          (message) => assert.include(message, '"never"')
        )
      )
    })
  }
)
