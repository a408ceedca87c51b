import { type Job, Worker } from "@coppice/jobs"
import { TestJobs } from "@coppice/testing"
import { assert, describe, it } from "@effect/vitest"
import { Cause, DateTime, Duration, Effect, Fiber, Layer, References, Schema } from "effect"
import { TestClock } from "effect/testing"
import { Letter } from "./fixtures/workers.ts"

class Echo extends Worker.Service<Echo>()("Echo", { args: { text: Schema.String, due: Schema.Date }, tags: ["a"] }) {
  static readonly layer = this.toLayer(Effect.succeed((job) => Effect.succeed(job)))
}

class Slow extends Worker.Service<Slow>()("Slow", { args: {}, timeout: "10 seconds", backoff: () => "1 minute" }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.never))
}

/** Its args do not come back from JSON as they went. */
class OneWay extends Worker.Service<OneWay>()("OneWay", {
  args: Schema.Struct({
    n: Schema.Int.check(Schema.makeFilter((n) => n < 10 || "too large"))
  })
}) {
  static readonly layer = this.toLayer(Effect.succeed(() => Effect.void))
}

const letter = { to: { street: "s", city: "c" }, pages: [], on: DateTime.makeUnsafe(0) }

describe("perform", () => {
  it.effect("gives the handler the args after JSON, and what is said of the job", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(5_000)
      const outcome = yield* TestJobs.perform(
        Echo,
        { text: "ä", due: new Date(1) },
        { attempt: 3, maxAttempts: 5, meta: { k: [1] }, tags: ["b"], queue: "q", priority: 2, id: 7 }
      )
      assert(outcome._tag === "Completed")
      const { args, attempt, attemptedAt, id, maxAttempts, meta, priority, queue, tags } = outcome.result as Job.Job
      assert.deepStrictEqual([id, queue, attempt, maxAttempts, priority], [7, "q", 3, 5, 2])
      assert.deepStrictEqual([args, tags, meta], [{ text: "ä", due: new Date(1) }, ["a", "b"], { k: [1] }])
      assert.deepStrictEqual(attemptedAt, DateTime.makeUnsafe(5_000))
    }).pipe(Effect.provide(Echo.layer))
  )

  it.effect("fails with what is wrong with the args", () =>
    Effect.gen(function* () {
      const nul = yield* Effect.flip(TestJobs.perform(Echo, { text: "a\u0000", due: new Date(0) }))
      assert.strictEqual(
        nul.message,
        "A job for Echo cannot be enqueued: args.text contains a NUL byte, which PostgreSQL cannot store: remove it"
      )
      const invalid = yield* Effect.flip(TestJobs.perform(OneWay, { n: 10 }))
      assert.match(invalid.message, /args do not fit their schema: .*too large/s)
    }).pipe(Effect.provide(Layer.merge(Echo.layer, OneWay.layer)))
  )

  it.effect("fails with an answer that could not be recorded", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* TestJobs.perform(Letter, letter), { _tag: "Completed", result: { sent: 0 } })
      const error = yield* Effect.flip(TestJobs.perform(Letter, { ...letter, urgent: true }))
      assert.match(
        error.message,
        /^Letter: The result could not be recorded: it does not fit its schema: .*Expected an integer/
      )
    }).pipe(Effect.provide(Letter.layer))
  )

  it.effect("interrupts the handler at the worker's timeout, and says when it would be tried again", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(TestJobs.perform(Slow, {}), { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      const outcome = yield* Fiber.join(fiber)
      assert(outcome._tag === "Failed")
      assert.match(Cause.pretty(outcome.cause), /did not end within 10s/)
      assert.deepStrictEqual(outcome.retryIn, Duration.minutes(1))
      const last = yield* Effect.forkChild(TestJobs.perform(Slow, {}, { attempt: 20 }), { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      assert.deepInclude(yield* Fiber.join(last), { _tag: "Failed", retryIn: undefined })
    }).pipe(Effect.provide(Slow.layer))
  )

  it.effect("runs the handler in the span of its job, wherever its layer was made", () => {
    class Place extends Worker.Service<Place>()("Place", { args: {} }) {
      static readonly layer = this.toLayer(
        Effect.succeed(() =>
          Effect.gen(function* () {
            const { name } = yield* Effect.currentSpan
            return [name, yield* References.CurrentLogAnnotations] as const
          })
        )
      )
    }
    return Effect.gen(function* () {
      const start = Layer.build(Place.layer).pipe(Effect.annotateLogs("app", "trails"), Effect.withSpan("start"))
      const outcome = yield* TestJobs.perform(Place, {}).pipe(
        Effect.annotateLogs("test", "this"),
        Effect.provideContext(yield* start)
      )
      assert(outcome._tag === "Completed")
      assert.deepStrictEqual(outcome.result, [
        "job Place",
        { test: "this", job: 1, worker: "Place", queue: "default", attempt: 1 }
      ])
    })
  })
})
