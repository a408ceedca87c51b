import { Child, Supervisor } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { pass, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

const failure = (exit: Exit.Exit<unknown, unknown>): Supervisor.StartError => {
  if (Exit.isSuccess(exit)) throw new Error("it started")
  const error = Cause.squash(exit.cause)
  assert.instanceOf(error, Supervisor.StartError)
  return error
}

describe("a supervisor's start", () => {
  scenario("starts children one after the other in list order, and is up when all are", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      a.startTakes = b.startTakes = c.startTakes = 10
      const app = yield* Effect.forkChild(startApp("one_for_one", [a.child(), b.child(), c.child()]))
      yield* pass(9)
      assert.strictEqual(journal.take(), "")
      yield* pass(1)
      assert.strictEqual(journal.take(), "+a")
      assert.strictEqual(b.starts, 1)
      assert.strictEqual(c.starts, 0)
      yield* pass(19)
      assert.isUndefined(app.pollUnsafe())
      yield* pass(1)
      assert.strictEqual(journal.take(), "+b +c")
      yield* Effect.flatMap(Fiber.join(app), (running) => running.stop)
      assert.strictEqual(journal.take(), "-c -b -a")
    })
  )

  scenario("a nested supervisor's whole tree is up before the next sibling starts", () =>
    Effect.gen(function* () {
      const { a, b, c, d, journal } = cast("a", "b", "c", "d")
      b.startTakes = c.startTakes = "1 second"
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", children: [b.child(), c.child()] })
      const app = yield* Effect.forkChild(startApp("one_for_one", [a.child(), Child.layer("inner", inner), d.child()]))
      yield* pass("1500 millis")
      assert.strictEqual(journal.take(), "+a +b")
      yield* pass("500 millis")
      assert.strictEqual(journal.take(), "+c +d")
      yield* Effect.flatMap(Fiber.join(app), (running) => running.stop)
      assert.strictEqual(journal.take(), "-d -c -b -a")
    })
  )

  scenario("a child that fails its first start is not retried; those before it are stopped in reverse", () =>
    Effect.gen(function* () {
      const { a, b, c, d, journal } = cast("a", "b", "c", "d")
      c.failingStarts = 1
      const exit = yield* Effect.exit(startApp("one_for_one", [a.child(), b.child(), c.child(), d.child()]))
      assert.strictEqual(journal.take(), "+a +b !c -b -a")
      assert.strictEqual(c.starts, 1)
      assert.strictEqual(d.starts, 0)
      const error = failure(exit)
      assert.strictEqual(error.path, "App/c")
      assert.strictEqual(error.message, "App/c failed to start: c cannot start")
      assert.strictEqual(Cause.squash(error.reason), "c cannot start")
    })
  )

  scenario("a start that fails slowly has stopped everything before it says so", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      a.stopTakes = "1 second"
      b.failingStarts = 1
      const app = yield* Effect.forkChild(startApp("one_for_one", [a.child(), b.child()]))
      yield* pass("999 millis")
      assert.strictEqual(journal.take(), "+a !b -a")
      assert.isUndefined(app.pollUnsafe())
      yield* pass("1 millis")
      assert.strictEqual(journal.take(), "=a")
      assert.isDefined(app.pollUnsafe())
    })
  )

  scenario("what a failing start had acquired itself is released", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.whileStarting = Effect.fail("halfway")
      const exit = yield* Effect.exit(startApp("one_for_one", [a.child(), b.child()]))
      assert.strictEqual(journal.take(), "+a +b -b -a")
      assert.strictEqual(Cause.squash(failure(exit).reason), "halfway")
    })
  )

  scenario("the error of a nested start names every level and carries the innermost cause, defects included", () =>
    Effect.gen(function* () {
      const { a, x, y, journal } = cast("a", "x", "y")
      y.whileStarting = Effect.die(new TypeError("nested"))
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", children: [x.child(), y.child()] })
      const middle = Supervisor.layer("Middle", { strategy: "one_for_one", children: [Child.layer("inner", inner)] })
      const exit = yield* Effect.exit(startApp("one_for_one", [a.child(), Child.layer("middle", middle)]))
      const error = failure(exit)
      assert.strictEqual(error.path, "App/middle/inner/y")
      assert.strictEqual(error.message, "App/middle/inner/y failed to start: TypeError: nested")
      assert.isTrue(
        error.reason.reasons.some((reason) => Cause.isDieReason(reason) && reason.defect instanceof TypeError)
      )
      assert.strictEqual(journal.take(), "+a +x +y -y -x -a")
    })
  )

  scenario("a cause of several reasons arrives whole", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      a.whileStarting = Effect.failCause(Cause.combine(Cause.fail("one"), Cause.die("two")))
      const { reason } = failure(yield* Effect.exit(startApp("one_for_one", [a.child()])))
      assert.deepStrictEqual(
        reason.reasons.map((one) => one._tag),
        ["Fail", "Die"]
      )
    })
  )

  scenario("a fiber of the layer that dies while the layer is still being built fails the start", () =>
    Effect.gen(function* () {
      const dying = Layer.effectDiscard(
        Effect.andThen(Effect.forkScoped(Effect.die("in the back")), Effect.sleep("1 second"))
      )
      const app = yield* Effect.forkChild(Effect.exit(startApp("one_for_one", [Child.layer("a", dying)])))
      yield* settle
      const error = failure(yield* Fiber.join(app))
      assert.strictEqual(error.path, "App/a")
      assert.strictEqual(Cause.squash(error.reason), "in the back")
    })
  )

  scenario("a failed first start of a nested supervisor's restart counts with the parent, not with itself", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      const inner = Supervisor.layer("Inner", {
        strategy: "one_for_one",
        maxRestarts: 0,
        children: [a.child(), b.child()]
      })
      yield* startApp("one_for_one", [Child.layer("inner", inner)])
      b.failingStarts = 2
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "+a +b -b -a +a !b -a +a !b -a +a +b")
    })
  )
})

describe("a supervisor that gives up before it is up", () => {
  scenario("has failed to start, because of the child that crashed too often, and stops what had started", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.startTakes = "1 hour"
      const app = yield* Effect.forkChild(
        Effect.exit(startApp("one_for_one", [a.child(), b.child()], { maxRestarts: 1 }))
      )
      yield* settle
      yield* a.crash("once")
      yield* settle
      assert.isUndefined(app.pollUnsafe())
      yield* a.crash("twice")
      yield* settle
      const error = failure(yield* Fiber.join(app))
      assert.strictEqual(error.path, "App/a")
      assert.strictEqual(Cause.squash(error.reason), "twice")
      assert.strictEqual(journal.take(), "+a -a +a -a")
    })
  )

  scenario("says so to the supervisor above it with the path of that child", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      b.startTakes = "1 hour"
      const inner = Supervisor.layer("Inner", {
        strategy: "one_for_one",
        maxRestarts: 0,
        children: [a.child(), b.child()]
      })
      const app = yield* Effect.forkChild(
        Effect.exit(startApp("one_for_one", [c.child(), Child.layer("inner", inner)]))
      )
      yield* settle
      yield* a.crash("deep")
      yield* settle
      assert.strictEqual(failure(yield* Fiber.join(app)).path, "App/inner/a")
      assert.strictEqual(journal.take(), "+c +a -a -c")
    })
  )
})

describe("a start that takes too long", () => {
  scenario("is not limited unless asked", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      a.startTakes = "1 day"
      const app = yield* Effect.forkChild(startApp("one_for_one", [a.child()]))
      yield* pass("23 hours")
      assert.isUndefined(app.pollUnsafe())
      yield* pass("1 hour")
      yield* Fiber.join(app)
    })
  )

  scenario("fails to the millisecond with StartTimeout, and rolls back", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.whileStarting = Effect.never
      const app = yield* Effect.forkChild(
        Effect.exit(startApp("one_for_one", [a.child(), b.child({ startTimeout: "2 seconds" })]))
      )
      yield* pass(1999)
      assert.isUndefined(app.pollUnsafe())
      assert.strictEqual(journal.take(), "+a +b")
      yield* pass(1)
      const error = failure(yield* Fiber.join(app))
      assert.strictEqual(journal.take(), "-b -a")
      assert.strictEqual(error.path, "App/b")
      const timeout = Cause.squash(error.reason)
      assert.instanceOf(timeout, Supervisor.StartTimeout)
      assert.strictEqual(timeout.message, "App/b was not up within its startTimeout of 2000 ms")
    })
  )

  scenario("is abandoned when it cannot be interrupted, and the rollback goes on", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.whileStarting = Effect.uninterruptible(Effect.never)
      const app = yield* Effect.forkChild(
        Effect.exit(startApp("one_for_one", [a.child(), b.child({ startTimeout: "2 seconds", shutdown: "1 second" })]))
      )
      yield* pass("2999 millis")
      assert.isUndefined(app.pollUnsafe())
      yield* pass("1 millis")
      assert.strictEqual(failure(yield* Fiber.join(app)).path, "App/b")
      assert.strictEqual(journal.take(), "+a +b -a")
    })
  )

  scenario("counts as a failed restart when it is one", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      yield* startApp("one_for_one", [a.child({ startTimeout: "1 second" })])
      a.startTakes = "2 seconds"
      yield* a.crash()
      yield* pass("1 second")
      assert.strictEqual(a.starts, 3)
      a.startTakes = 0
      yield* pass("1 second")
      assert.strictEqual(a.starts, 4)
      assert.strictEqual(journal.take(), "+a -a +a")
    })
  )
})

describe("an interrupted start", () => {
  scenario("stops what had started, in reverse, and what was starting", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      c.whileStarting = Effect.never
      const app = yield* Effect.forkChild(startApp("one_for_one", [a.child(), b.child(), c.child()]))
      yield* settle
      yield* Fiber.interrupt(app)
      assert.strictEqual(journal.take(), "+a +b +c -c -b -a")
    }).pipe(Effect.scoped)
  )
})

describe("options that cannot work", () => {
  const problem = (
    options: { readonly maxRestarts?: number; readonly within?: number },
    ids: ReadonlyArray<string> = []
  ) =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      const children = [a.child(), ...ids.map((id) => Child.effect(id, Effect.never))]
      const error = failure(yield* Effect.exit(startApp("one_for_one", children, options)))
      const invalid = Cause.squash(error.reason)
      assert.instanceOf(invalid, Supervisor.InvalidOptions)
      assert.strictEqual(invalid.path, "App")
      assert.strictEqual(journal.take(), "")
      return invalid.message
    })

  scenario("are told before anything has started", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* problem({ maxRestarts: -1 }), "App: maxRestarts must be an integer from 0, but is -1")
      assert.strictEqual(yield* problem({ maxRestarts: 1.5 }), "App: maxRestarts must be an integer from 0, but is 1.5")
      assert.strictEqual(yield* problem({ maxRestarts: NaN }), "App: maxRestarts must be an integer from 0, but is NaN")
      assert.strictEqual(
        yield* problem({ maxRestarts: Infinity }),
        "App: maxRestarts must be an integer from 0, but is Infinity"
      )
      assert.strictEqual(yield* problem({ within: 0 }), "App: within must be longer than 0 ms, but is 0 ms")
      assert.strictEqual(
        yield* problem({}, ["b", "c", "b"]),
        'App: two children are called "b": give each an id of its own'
      )
      assert.strictEqual(yield* problem({}, [""]), 'App: a child\'s id must not be empty or contain "/", but one is ""')
      assert.strictEqual(
        yield* problem({}, ["x/y"]),
        'App: a child\'s id must not be empty or contain "/", but one is "x/y"'
      )
    })
  )

  scenario("a supervisor's name cannot be a path", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(start(Supervisor.layer("a/b", { strategy: "one_for_one", children: [] })))
      assert.include(failure(exit).message, "a supervisor's name must not be empty or contain")
    })
  )

  scenario("of a nested supervisor are told with its path", () =>
    Effect.gen(function* () {
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", maxRestarts: -1, children: [] })
      const error = failure(yield* Effect.exit(startApp("one_for_one", [Child.layer("inner", inner)])))
      assert.strictEqual(error.path, "App/inner")
      assert.instanceOf(Cause.squash(error.reason), Supervisor.InvalidOptions)
    })
  )

  scenario("a supervisor without children is fine", () =>
    Effect.flatMap(startApp("one_for_all", []), (app) => app.stop)
  )
})
