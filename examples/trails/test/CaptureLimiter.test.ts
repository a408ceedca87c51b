import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, References } from "effect"
import { TestClock } from "effect/testing"
import * as CaptureLimiter from "../src/CaptureLimiter.ts"
import { UserId } from "../src/User.ts"

const [ada, grace] = [UserId.make(1), UserId.make(2)]

const App = Supervisor.layer("App", {
  strategy: "one_for_one",
  children: [Child.layer("capture-limiter", CaptureLimiter.CaptureLimiter.layer({ perMinute: 6, maxUsers: 2 }))]
}).pipe(Layer.provideMerge(Tree.layer), Layer.provide(Layer.succeed(References.MinimumLogLevel, "None")))

const takes = (user: UserId, count: number) =>
  Effect.map(
    Effect.all(Array.from({ length: count }, () => Effect.exit(CaptureLimiter.take(user)))),
    (exits) => exits.filter(Exit.isSuccess).length
  )

describe("CaptureLimiter", () => {
  it.effect("lets a minute's worth of captures through, and says when the next one may come", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* takes(ada, 10), 6)
      const refused = yield* Effect.flip(CaptureLimiter.take(ada))
      assert.deepInclude({ ...refused }, { _tag: "TooManyCaptures", perMinute: 6, retryAfterSeconds: 10 })
      yield* TestClock.adjust("9999 millis")
      assert.strictEqual(yield* takes(ada, 1), 0)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* takes(ada, 2), 1)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* takes(ada, 10), 6)
    }).pipe(Effect.provide(App))
  )

  it.effect("counts every user by themselves", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* takes(ada, 10), 6)
      assert.strictEqual(yield* takes(grace, 10), 6)
    }).pipe(Effect.provide(App))
  )

  it.effect("keeps no more counts than it has room for: a user too many, and all are forgotten", () =>
    Effect.gen(function* () {
      for (const user of [ada, grace, ada]) yield* takes(user, 6)
      assert.strictEqual(yield* takes(grace, 1), 0)
      assert.strictEqual(yield* takes(UserId.make(3), 10), 6)
      assert.strictEqual(yield* takes(ada, 10), 6)
    }).pipe(Effect.provide(App))
  )

  it.effect("forgets its counts in a crash, and refuses nobody because of it", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* takes(ada, 6), 6)
      const waiting = yield* Effect.forEach(Array.from({ length: 5 }), () => Effect.forkChild(CaptureLimiter.take(ada)))
      yield* Tree.kill("App/capture-limiter")
      for (const exit of yield* Effect.forEach(waiting, Fiber.await)) assert.isTrue(Exit.isSuccess(exit))
      assert.isAtLeast(yield* takes(ada, 6), 1)
    }).pipe(Effect.provide(App))
  )
})
