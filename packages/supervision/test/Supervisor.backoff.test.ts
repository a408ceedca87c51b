import { Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Effect, Schedule } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { giveUpOf, launch } from "./fixtures/GiveUp.ts"
import { outcome, pass, scenario, settle, startApp } from "./fixtures/Scenario.ts"

describe("a backoff schedule", () => {
  scenario("delays the restarts, more each time", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child({ backoff: Schedule.exponential(100) })], { maxRestarts: 100 })
      let starts = 1
      for (const delay of [100, 200, 400, 800]) {
        yield* a.crash()
        yield* pass(delay - 1)
        assert.strictEqual(a.starts, starts, `before ${delay} ms`)
        assert.strictEqual((yield* Tree.get("App/a")).status, "restarting")
        yield* pass(1)
        assert.strictEqual(a.starts, ++starts, `after ${delay} ms`)
      }
    })
  )

  scenario("delays restarts that fail as well", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child({ backoff: Schedule.exponential(100) })], { maxRestarts: 100 })
      a.failingStarts = 2
      yield* a.crash()
      yield* pass(100)
      assert.strictEqual(a.starts, 2)
      yield* pass(199)
      assert.strictEqual(a.starts, 2)
      yield* pass(1)
      assert.strictEqual(a.starts, 3)
      yield* pass(400)
      assert.strictEqual(a.starts, 4)
      assert.strictEqual((yield* Tree.get("App/a")).status, "running")
    })
  )

  scenario("starts anew after the child has been up for `within`, and not a millisecond earlier", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child({ backoff: Schedule.exponential(100) })], { within: "10 seconds" })
      yield* a.crash()
      yield* pass(100)
      yield* pass(9999)
      yield* a.crash()
      yield* pass(199)
      assert.strictEqual(a.starts, 2)
      yield* pass(1)
      assert.strictEqual(a.starts, 3)
      yield* pass(10_000)
      yield* a.crash()
      yield* pass(100)
      assert.strictEqual(a.starts, 4)
    })
  )

  scenario("does not take a long start for a long life", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child({ backoff: Schedule.exponential(100) })], { within: "1 second" })
      a.startTakes = "10 seconds"
      yield* a.crash()
      yield* pass(100)
      yield* pass("10 seconds")
      assert.strictEqual((yield* Tree.get("App/a")).status, "running")
      yield* a.crash()
      yield* pass(199)
      assert.strictEqual(a.starts, 2)
      yield* pass(1)
      assert.strictEqual(a.starts, 3)
    })
  )

  scenario("makes the supervisor give up when it ends, and says so", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* launch(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          maxRestarts: 100,
          children: [a.child({ backoff: Schedule.max([Schedule.spaced(100), Schedule.recurs(2)]) })]
        })
      )
      for (let n = 0; n < 2; n++) {
        yield* a.crash()
        yield* pass(100)
      }
      assert.strictEqual(outcome(app), "running")
      yield* a.crash("the third")
      yield* settle
      const error = giveUpOf(outcome(app))
      assert.strictEqual(error.child, "App/a")
      assert.strictEqual(Cause.squash(error.reason), "the third")
      assert.strictEqual(error.message, "App gave up: the backoff schedule of App/a ended; the last end was: the third")
    })
  )

  scenario("that fails itself makes the supervisor give up, with both causes", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const broken = Schedule.fromStep(Effect.succeed(() => Effect.die("the schedule is broken")))
      const app = yield* launch(
        Supervisor.layer("App", { strategy: "one_for_one", children: [a.child({ backoff: broken })] })
      )
      yield* a.crash("the crash")
      yield* settle
      assert.deepStrictEqual(
        giveUpOf(outcome(app)).reason.reasons.map((reason) => (Cause.isDieReason(reason) ? reason.defect : reason)),
        ["the crash", "the schedule is broken"]
      )
    })
  )

  scenario("is each child's own, and keeps nobody else waiting", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      yield* startApp("one_for_one", [a.child({ backoff: Schedule.spaced("1 hour") }), b.child()])
      journal.take()
      yield* a.crash()
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-a -b +b")
    })
  )

  scenario("of a crashed child keeps its whole group down in one_for_all", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      yield* startApp("one_for_all", [a.child({ backoff: Schedule.spaced("1 second") }), b.child()])
      journal.take()
      yield* a.crash()
      yield* pass(999)
      assert.strictEqual(journal.take(), "-b -a")
      yield* pass(1)
      assert.strictEqual(journal.take(), "+a +b")
    })
  )

  scenario("that runs is ended by a stop", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      const app = yield* startApp("one_for_one", [a.child({ backoff: Schedule.spaced("1 hour") }), b.child()])
      yield* a.crash()
      yield* settle
      journal.take()
      yield* app.stop
      assert.strictEqual(journal.take(), "-b")
      yield* pass("2 hours")
      assert.strictEqual(a.starts, 1)
    })
  )
})
