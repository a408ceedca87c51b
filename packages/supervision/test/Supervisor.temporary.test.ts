import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Context, Effect, Fiber, Layer } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { Box, fork, make, unavailable } from "./fixtures/Box.ts"
import { outcome, pass, scenario, settle, start } from "./fixtures/Scenario.ts"

/** A layer that fails to start without Box, and says what it saw of it. */
const needsBox = (seen: Array<unknown>) =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const { number } = yield* Box
      seen.push(yield* Effect.exit(number))
    })
  )

const finished = (exit: unknown): void =>
  // What was seen are the exits of calls.
  assert.strictEqual(unavailable(exit as Parameters<typeof unavailable>[0]).reason, "finished")

describe("the services of a temporary child that has ended", () => {
  for (const strategy of ["one_for_one", "one_for_all", "rest_for_one"] as const) {
    scenario(`${strategy}: are still there for those that are restarted, and say that it has finished`, () =>
      Effect.gen(function* () {
        const { a } = cast("a")
        const seen: Array<unknown> = []
        const app = yield* start(
          Supervisor.layer("App", {
            strategy,
            children: [
              Child.layer("box", Layer.provideMerge(Layer.effect(Box, make(1)), a.layer), { restart: "temporary" }),
              Child.layer("user", needsBox(seen))
            ]
          })
        )
        yield* a.crash()
        yield* settle
        for (let n = 0; n < 3; n++) {
          yield* Tree.kill("App/user")
          yield* settle
        }
        assert.strictEqual((yield* Tree.get("App/user")).status, "running")
        assert.strictEqual(seen.length, 4)
        for (const exit of seen.slice(1)) finished(exit)
        finished(yield* Effect.exit(Context.get(app.context, Box).number))
      })
    )
  }

  scenario("are still there for those that are restarted with it in one group", () =>
    Effect.gen(function* () {
      const { b } = cast("b")
      const seen: Array<unknown> = []
      yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_all",
          children: [
            Child.layer("box", Layer.effect(Box, make(1)), { restart: "temporary" }),
            b.child(),
            Child.layer("user", needsBox(seen))
          ]
        })
      )
      yield* b.crash()
      yield* settle
      assert.strictEqual((yield* Tree.get("App/user")).status, "running")
      assert.strictEqual(seen.length, 2)
      finished(seen[1])
    })
  )

  scenario("are provided also where it ended before the last child was up", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      b.startTakes = "1 second"
      const starting = yield* fork(
        start(
          Supervisor.layer("App", {
            strategy: "one_for_one",
            children: [
              Child.layer("box", Layer.provideMerge(Layer.effect(Box, make(1)), a.layer), { restart: "temporary" }),
              b.child()
            ]
          })
        )
      )
      yield* settle
      yield* a.crash()
      yield* pass("1 second")
      assert.notStrictEqual(outcome(starting), "running")
      const app = yield* Fiber.join(starting)
      finished(yield* Effect.exit(Context.get(app.context, Box).number))
    })
  )
})
