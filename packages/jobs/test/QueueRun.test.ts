import { assert, layer } from "@effect/vitest"
import { Pglite } from "@coppice/postgres"
import { Context, Effect, Layer, Ref, Schema } from "effect"
import { Jobs, JobsConfig, type Queue, Worker } from "@coppice/jobs"
import { EmptyDatabase } from "./fixtures/engine.ts"

class Log extends Context.Service<Log, Ref.Ref<ReadonlyArray<string>>>()("test/Log") {
  static readonly layer = Layer.effect(Log, Ref.make<ReadonlyArray<string>>([]))
}

class Send extends Worker.Service<Send>()("Send", {
  queue: "mail",
  args: { to: Schema.String, takes: Schema.optionalKey(Schema.Int) },
  partition: ({ to }) => to
}) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const log = yield* Log
      return ({ args }) =>
        Effect.gen(function* () {
          yield* Ref.update(log, (all) => [...all, args.to])
          if (args.takes !== undefined) yield* Effect.sleep(args.takes)
        })
    })
  )
}

/** Tables of a test's own, and virtual time. */
let schemas = 0
const fresh = Layer.unwrap(
  Effect.sync(() =>
    Layer.mergeAll(
      Layer.succeed(JobsConfig.SchemaName, `queue_run_${schemas++}`),
      Layer.succeed(JobsConfig.TimeSource, "clock"),
      Log.layer
    )
  )
)
const node = (mail: Queue.Options, name = "a") => Jobs.layer({ queues: { mail }, workers: [Send.layer], node: name })
const alone = (mail: Queue.Options) => Layer.provideMerge(node(mail), fresh)
const sent = Effect.flatMap(Log, (log) => Effect.map(Ref.get(log), (all) => all.length))
const send = (count: number, to = "ada", takes?: number) =>
  Effect.forEach(Array.from({ length: count }), () => Send.enqueue({ to, ...(takes !== undefined && { takes }) }), {
    discard: true
  })

layer(EmptyDatabase)("a node", (it) => {
  it.effect("starts nothing of a queue that was paused before it began, and goes on when it is resumed", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        yield* jobs.pause("mail")
      }).pipe(Effect.provide(node({ limit: 5 })))
      yield* Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        yield* send(3)
        yield* Pglite.advance("10 seconds")
        assert.strictEqual(yield* sent, 0)
        yield* jobs.resume("mail")
        yield* Pglite.advance("3 seconds")
        assert.strictEqual(yield* sent, 3)
      }).pipe(Effect.provide(node({ limit: 5 })))
    }).pipe(Effect.provide(fresh))
  )

  it.effect("starts nothing of what was available already in a queue that is paused", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        yield* jobs.pause("mail", { node: "a" })
      }).pipe(Effect.provide(node({ limit: 5 }, "b")))
      yield* Effect.provide(send(3), Jobs.layerClient)
      yield* Effect.provide(Pglite.advance("10 seconds"), node({ limit: 5 }))
      assert.strictEqual(yield* sent, 0)
    }).pipe(Effect.provide(fresh))
  )

  it.effect("starts the next job of a limited queue when one has ended, without waiting for a poll", () =>
    Effect.gen(function* () {
      yield* send(20)
      yield* Pglite.advance("900 millis")
      assert.strictEqual(yield* sent, 20)
    }).pipe(Effect.provide(alone({ limit: 10, global: 2 })))
  )

  it.effect("starts the next job of a partition when one has ended, without waiting for a poll", () =>
    Effect.gen(function* () {
      yield* send(10, "ada", 50)
      yield* send(10, "bob", 50)
      yield* Pglite.advance("10 millis")
      assert.strictEqual(yield* sent, 2)
      for (let n = 0; n < 14; n++) yield* Pglite.advance("50 millis")
      assert.strictEqual(yield* sent, 20)
    }).pipe(Effect.provide(alone({ limit: 10, perPartition: 1 })))
  )

  it.effect("starts jobs at the rate of their queue, between two polls too", () =>
    Effect.gen(function* () {
      yield* send(100)
      yield* Pglite.advance("10 millis")
      assert.strictEqual(yield* sent, 10)
      const counts: Array<number> = []
      for (let n = 0; n < 8; n++) {
        yield* Pglite.advance("100 millis")
        counts.push(yield* sent)
      }
      assert.deepStrictEqual(counts, [11, 12, 13, 14, 15, 16, 17, 18])
    }).pipe(Effect.provide(alone({ limit: 50, rate: { limit: 10, period: "1 second" } })))
  )

  it.effect("follows a limit that is said at run time", () =>
    Effect.gen(function* () {
      const jobs = yield* Jobs.Jobs
      yield* jobs.limit("mail", { global: 1 })
      yield* Pglite.advance("3 seconds")
      yield* send(3, "ada", 60_000)
      yield* Pglite.advance("3 seconds")
      assert.strictEqual(yield* sent, 1)
      yield* jobs.limit("mail", { global: null })
      yield* Pglite.advance("3 seconds")
      assert.strictEqual(yield* sent, 3)
    }).pipe(Effect.provide(alone({ limit: 10 })))
  )

  it.effect("is refused with options that make no sense", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Effect.scoped(Layer.build(node({ limit: 1, global: -1 }))))
      assert.include(String(error), "global is -1")
    }).pipe(Effect.provide(fresh))
  )
})
