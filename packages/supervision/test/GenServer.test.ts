import { Child, GenServer, Supervisor } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Schema } from "effect"
import { TestClock } from "effect/testing"

class Refused extends Schema.TaggedError<Refused>()("Refused", { by: Schema.Finite }) {}

class Counter extends GenServer.Service<Counter>()("test/Counter", {
  init: (start: number) => Effect.succeed({ count: start }),
  calls: {
    increment: (state, by: number) =>
      by < 0
        ? Effect.fail(new Refused({ by }))
        : Effect.succeed(GenServer.reply(state.count + by, { count: state.count + by })),
    crash: (_state, message: string) => Effect.die(new Error(message)),
    slow: (state) => Effect.delay(Effect.succeed(GenServer.reply("done", state)), "10 seconds")
  },
  casts: { reset: () => Effect.succeed({ count: 0 }) }
}) {}

describe("GenServer", () => {
  it.effect("answers calls one at a time and in order", () =>
    Effect.gen(function* () {
      const replies = yield* Effect.forEach([1, 2, 3], (n) => Counter.increment(n), { concurrency: 3 })
      assert.deepStrictEqual(replies, [1, 3, 6])
      yield* Counter.reset()
      assert.strictEqual(yield* Counter.increment(5), 5)
    }).pipe(Effect.provide(Counter.layer(0)))
  )

  it.effect("a typed failure is the caller's and leaves the state alone", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Counter.increment(-1))
      assert.instanceOf(error, Refused)
      assert.strictEqual(yield* Counter.increment(0), 7)
    }).pipe(Effect.provide(Counter.layer(7)))
  )

  it.effect("a call times out after five seconds and the late reply is dropped", () =>
    Effect.gen(function* () {
      const call = yield* Effect.forkChild(Effect.flip(Counter.slow()))
      yield* TestClock.adjust("4999 millis")
      assert.isUndefined(call.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const error = yield* Fiber.join(call)
      assert.strictEqual(error.message, "test/Counter did not answer within 5000 ms")
      const waiting = yield* Effect.forkChild(Counter.increment(1))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* Fiber.join(waiting), 1)
    }).pipe(Effect.provide(Counter.layer(0)))
  )

  it.effect("every waiting caller learns of the server's death at once, with the cause, and the next finds a new one", () =>
    Effect.gen(function* () {
      const counter = yield* Counter
      yield* Effect.gen(function* () {
        const slow = yield* Effect.forkChild(Effect.flip(counter.slow()))
        yield* Effect.yieldNow
        const queued = yield* Effect.forkChild(Effect.flip(Counter.increment(1)))
        const crash = yield* Effect.forkChild(Effect.flip(Counter.crash("boom")))
        yield* TestClock.adjust("4 seconds")
        const again = yield* Effect.forkChild(Effect.flip(GenServer.withCallTimeout("20 seconds")(counter.crash("boom"))))
        yield* TestClock.adjust("6 seconds")
        console.log((yield* Fiber.join(slow)).message, (yield* Fiber.join(queued)).message, (yield* Fiber.join(crash)).message, (yield* Fiber.join(again)).message)
        assert.strictEqual(yield* counter.increment(1), 11)
        assert.strictEqual(yield* Counter.increment(1), 12)
      })
    }).pipe(
      Effect.provide(
        Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("counter", Counter.layer(10))] })
      )
    )
  )
})
