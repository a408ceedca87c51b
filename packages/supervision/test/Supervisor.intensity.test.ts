import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Metric } from "effect"
import { addRestart, type Intensity } from "../src/internal/intensity.ts"
import { cast } from "./fixtures/Actor.ts"
import { giveUpOf, launch } from "./fixtures/GiveUp.ts"
import { outcome, pass, record, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

describe("the restart intensity", () => {
  scenario("is 3 restarts in 5 seconds by default: three crashes are survived, the fourth gives up", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      const app = yield* launch(Supervisor.layer("App", { strategy: "one_for_one", children: [a.child()] }))
      for (const time of [0, 1666, 1667]) {
        yield* pass(time)
        yield* a.crash()
        yield* settle
      }
      assert.strictEqual(journal.take(), "+a -a +a -a +a -a +a")
      yield* pass(1667)
      assert.strictEqual(outcome(app), "running")
      yield* a.crash("the last straw")
      yield* settle
      assert.strictEqual(journal.take(), "-a")
      const error = giveUpOf(outcome(app))
      assert.strictEqual(error.path, "App")
      assert.strictEqual(error.child, "App/a")
      assert.strictEqual(error.maxRestarts, 3)
      assert.strictEqual(error.withinMillis, 5000)
      assert.strictEqual(Cause.squash(error.reason), "the last straw")
      assert.strictEqual(
        error.message,
        "App gave up: App/a exceeded 3 restarts within 5000 ms; the last end was: the last straw"
      )
    })
  )

  scenario("an entry that is exactly `within` old still counts", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* launch(
        Supervisor.layer("App", { strategy: "one_for_one", maxRestarts: 1, within: "5 seconds", children: [a.child()] })
      )
      yield* a.crash()
      yield* pass(5000)
      yield* a.crash()
      yield* settle
      giveUpOf(outcome(app))
    })
  )

  scenario("an entry that is one millisecond older does not", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* launch(
        Supervisor.layer("App", { strategy: "one_for_one", maxRestarts: 1, within: "5 seconds", children: [a.child()] })
      )
      for (let n = 0; n < 5; n++) {
        yield* a.crash()
        yield* pass(5001)
      }
      assert.strictEqual(outcome(app), "running")
      assert.strictEqual(a.starts, 6)
    })
  )

  scenario("the window slides: every entry leaves it by itself, and a long uptime gives back only what it must", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* launch(
        Supervisor.layer("App", { strategy: "one_for_one", maxRestarts: 2, within: 100, children: [a.child()] })
      )
      for (const time of [0, 60, 41, 60, 41]) {
        yield* pass(time)
        yield* a.crash()
        yield* settle
        assert.strictEqual(outcome(app), "running")
      }
      yield* pass(58)
      yield* a.crash()
      yield* settle
      giveUpOf(outcome(app))
    })
  )

  scenario("0 gives up at the first crash", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      const app = yield* launch(
        Supervisor.layer("App", { strategy: "one_for_one", maxRestarts: 0, children: [a.child()] })
      )
      yield* a.crash()
      yield* settle
      giveUpOf(outcome(app))
      assert.strictEqual(journal.take(), "+a -a")
    })
  )

  scenario("is shared by all children of a supervisor", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      const app = yield* launch(
        Supervisor.layer("App", { strategy: "one_for_one", maxRestarts: 1, children: [a.child(), b.child()] })
      )
      yield* a.crash()
      yield* settle
      yield* b.crash()
      yield* settle
      assert.strictEqual(giveUpOf(outcome(app)).child, "App/b")
    })
  )

  scenario("counts failed restarts: one crash and three failures in a row are too many", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      const app = yield* launch(Supervisor.layer("App", { strategy: "one_for_one", children: [a.child()] }))
      a.failingStarts = 10
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "+a -a !a !a !a")
      assert.strictEqual(Cause.squash(giveUpOf(outcome(app)).reason), "a cannot start")
    })
  )

  scenario("does not count what a group restart stops or starts besides the crashed child", () =>
    Effect.gen(function* () {
      const { a, b, c } = cast("a", "b", "c")
      const children = [a.child(), b.child(), c.child()] as const
      const app = yield* launch(Supervisor.layer("App", { strategy: "one_for_all", maxRestarts: 3, children }))
      for (let n = 0; n < 3; n++) {
        yield* b.crash()
        yield* settle
      }
      assert.strictEqual(outcome(app), "running")
      assert.strictEqual(c.starts, 4)
    })
  )

  scenario("a restart loop that always fails lets other fibers run and can be stopped", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* startApp("one_for_one", [a.child()], { maxRestarts: 1_000_000_000 })
      a.failingStarts = Infinity
      yield* a.crash()
      yield* settle
      const starts = a.starts
      yield* settle
      assert.isAbove(a.starts, starts)
      yield* app.stop
      const last = a.starts
      yield* settle
      assert.strictEqual(a.starts, last)
    })
  )
})

describe("addRestart", () => {
  // OTP's rule, told naively: a restart is allowed when at most `maxRestarts` of all restarts there ever were, itself
  // included, are at most `withinMillis` old.
  const model = (times: ReadonlyArray<number>, { maxRestarts, withinMillis }: Intensity): ReadonlyArray<boolean> =>
    times.map((now, n) => times.slice(0, n + 1).filter((time) => time >= now - withinMillis).length <= maxRestarts)

  it("agrees with the naive arithmetic, also after a refusal, and keeps no more than it needs", () => {
    // A small generator of its own: the same cases on every run.
    let seed = 42
    const below = (n: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
      return Math.floor((seed / 2_147_483_648) * n)
    }
    for (let round = 0; round < 500; round++) {
      const intensity = { maxRestarts: below(6), withinMillis: 1 + below(20) }
      const times: Array<number> = []
      let now = below(1000)
      for (let n = 0; n < 60; n++) times.push((now += below(2) * below(12)))
      const window: Array<number> = []
      const allowed = times.map((time) => addRestart(window, time, intensity))
      assert.deepStrictEqual(allowed, model(times, intensity), JSON.stringify({ intensity, times }))
      assert.isTrue(window.every((time) => time >= now - intensity.withinMillis))
    }
  })
})

describe("a supervisor that gives up", () => {
  scenario("stops its children in reverse, each with its own shutdown, before it ends", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      const app = yield* launch(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          maxRestarts: 0,
          children: [a.child(), b.child(), c.child({ shutdown: "2 seconds" })]
        })
      )
      a.stopTakes = "1 second"
      c.stopTakes = "1 hour"
      journal.take()
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-c")
      yield* pass("2 seconds")
      assert.strictEqual(journal.take(), "-b -a")
      assert.strictEqual(outcome(app), "running")
      yield* pass("1 second")
      giveUpOf(outcome(app))
    })
  )

  scenario("is told in the tree's events, counted and logged", () =>
    Effect.gen(function* () {
      const events = yield* record
      const { a } = cast("a")
      yield* startApp("one_for_one", [a.child()], { maxRestarts: 0 })
      yield* a.crash("why")
      yield* settle
      const gaveUp = events.find((event) => event._tag === "GaveUp")
      assert.strictEqual(gaveUp?.path, "App")
      assert.strictEqual(gaveUp?._tag === "GaveUp" ? Cause.squash(gaveUp.cause) : undefined, "why")
      const metrics = yield* Metric.snapshot
      assert.isTrue(
        metrics.some(
          ({ attributes, id }) => id === "coppice_supervisor_gave_up_total" && attributes?.["path"] === "App"
        )
      )
    })
  )

  for (const restart of ["permanent", "transient"] as const) {
    scenario(`is an abnormal end for its parent, which restarts it when it is ${restart}`, () =>
      Effect.gen(function* () {
        const { a, b, journal } = cast("a", "b")
        const inner = Supervisor.layer("Inner", {
          strategy: "one_for_one",
          maxRestarts: 1,
          children: [a.child(), b.child()]
        })
        const app = yield* launch(
          Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("inner", inner, { restart })] })
        )
        yield* a.crash()
        yield* settle
        journal.take()
        yield* a.crash("enough")
        yield* settle
        assert.strictEqual(journal.take(), "-b -a +a +b")
        assert.strictEqual(outcome(app), "running")
        const node = yield* Tree.get("App/inner")
        assert.strictEqual(node.restarts, 1)
        const cause = node.crashes.at(-1)?.cause
        assert.instanceOf(cause === undefined ? undefined : Cause.squash(cause), Supervisor.MaxRestartsExceeded)
        // The new one has forgotten the restarts of the old.
        yield* a.crash()
        yield* settle
        assert.strictEqual(journal.take(), "-a +a")
      })
    )
  }

  scenario("is forgotten by its parent when it is temporary", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", maxRestarts: 0, children: [a.child()] })
      yield* startApp("one_for_one", [Child.layer("inner", inner, { restart: "temporary" }), b.child()])
      journal.take()
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-a")
      assert.deepStrictEqual(
        (yield* Tree.get("App")).children.map((child) => child.id),
        ["b"]
      )
    })
  )

  for (const [how, options, hide] of [
    ["linkFibers: false", { linkFibers: false }, <E>(layer: Layer.Layer<never, E>) => layer],
    ["Layer.fresh", {}, <E>(layer: Layer.Layer<never, E>) => Layer.fresh(layer)],
    ["a layer that is built by hand", {}, <E>(layer: Layer.Layer<never, E>) => Layer.effectDiscard(Layer.build(layer))]
  ] as const) {
    scenario(`is noticed by its parent also behind ${how}`, () =>
      Effect.gen(function* () {
        const { a, journal } = cast("a")
        const inner = Supervisor.layer("Inner", { strategy: "one_for_one", maxRestarts: 0, children: [a.child()] })
        yield* startApp("one_for_one", [Child.layer("inner", hide(inner), options)])
        yield* a.crash()
        yield* settle
        assert.strictEqual(journal.take(), "+a -a +a")
        assert.strictEqual((yield* Tree.get("App/inner")).restarts, 1)
      })
    )
  }

  scenario("escalates level by level: each multiplies how many crashes are survived", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", maxRestarts: 1, children: [a.child()] })
      const middle = Supervisor.layer("Middle", {
        strategy: "one_for_one",
        maxRestarts: 1,
        children: [Child.layer("inner", inner)]
      })
      const app = yield* launch(
        Supervisor.layer("App", { strategy: "one_for_one", maxRestarts: 1, children: [Child.layer("middle", middle)] })
      )
      for (let crashes = 1; crashes < 8; crashes++) {
        yield* a.crash(`crash ${crashes}`)
        yield* settle
        assert.strictEqual(outcome(app), "running", `after ${crashes} crashes`)
      }
      yield* a.crash("the eighth")
      yield* settle
      const error = giveUpOf(outcome(app))
      assert.strictEqual(error.child, "App/middle")
      const middleError = Cause.squash(error.reason)
      assert.instanceOf(middleError, Supervisor.MaxRestartsExceeded)
      const innerError = Cause.squash(middleError.reason)
      assert.instanceOf(innerError, Supervisor.MaxRestartsExceeded)
      assert.strictEqual(innerError.child, "App/middle/inner/a")
      assert.strictEqual(Cause.squash(innerError.reason), "the eighth")
    })
  )

  scenario("leaves its tree standing as stopped until its layer is closed, and what it had is gone then", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* startApp("one_for_one", [a.child()], { maxRestarts: 0 })
      yield* a.crash()
      yield* settle
      assert.strictEqual((yield* Tree.get("App/a")).status, "stopped")
      yield* app.stop
      assert.deepStrictEqual(yield* Tree.snapshot, [])
    })
  )
})

describe("the services of a tree that gave up", () => {
  class Answer extends Context.Service<Answer, { readonly get: Effect.Effect<number> }>()("test/Answer") {}

  scenario("end with a defect that names the child and why, at once and also when asked later", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const answer = Layer.merge(a.layer, Layer.succeed(Answer, { get: Effect.succeed(42) }))
      const app = yield* start(
        Supervisor.layer("App", { strategy: "one_for_one", maxRestarts: 1, children: [Child.layer("answer", answer)] })
      )
      const { get } = Context.get(app.context, Answer)
      assert.strictEqual(yield* get, 42)
      a.startTakes = "1 second"
      a.failingStarts = 10
      yield* a.crash()
      yield* settle
      const waiting = yield* Effect.forkChild(Effect.exit(get))
      yield* settle
      assert.strictEqual(outcome(waiting), "running")
      yield* pass("1 second")
      const later = yield* Effect.exit(get)
      yield* app.stop
      const last = yield* Effect.exit(get)
      for (const exit of [yield* Fiber.join(waiting), later, last]) {
        assert.isTrue(Exit.isFailure(exit))
        const error = Cause.squash((exit as Exit.Failure<number, never>).cause)
        assert.instanceOf(error, Child.ChildUnavailable)
        assert.strictEqual(error.path, "App/answer")
        assert.strictEqual(error.reason, "gave up")
        assert.strictEqual(Cause.squash(error.cause as Cause.Cause<unknown>), "a cannot start")
      }
    })
  )
})
