import { Child, Supervisor } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { withLogs } from "./fixtures/Logs.ts"
import { outcome, pass, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

/** Starts to stop a tree, and gives the fiber that ends when it has stopped. */
const beginStop = (app: { readonly stop: Effect.Effect<void> }) =>
  Effect.tap(Effect.forkScoped(app.stop, { startImmediately: true }), settle)

describe("a stop", () => {
  scenario("goes in reverse order, and tells the next child when the one before has ended", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      a.stopTakes = b.stopTakes = c.stopTakes = "1 second"
      const app = yield* startApp("one_for_one", [a.child(), b.child(), c.child()])
      journal.take()
      const stop = yield* beginStop(app)
      assert.strictEqual(journal.take(), "-c")
      yield* pass(999)
      assert.strictEqual(journal.take(), "")
      yield* pass(1)
      assert.strictEqual(journal.take(), "=c -b")
      yield* pass(1000)
      assert.strictEqual(journal.take(), "=b -a")
      assert.strictEqual(outcome(stop), "running")
      yield* pass(1000)
      assert.strictEqual(journal.take(), "=a")
      yield* Fiber.join(stop)
    })
  )

  scenario("of a nested supervisor stops all of its children before the sibling that came before it", () =>
    Effect.gen(function* () {
      const { a, b, c, d, journal } = cast("a", "b", "c", "d")
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", children: [b.child(), c.child()] })
      const app = yield* startApp("one_for_one", [a.child(), Child.layer("inner", inner), d.child()])
      journal.take()
      yield* app.stop
      assert.strictEqual(journal.take(), "-d -c -b -a")
    })
  )

  scenario("lets a child use the children before it to the end", () =>
    Effect.gen(function* () {
      class Store extends Context.Service<Store, { readonly write: (line: string) => Effect.Effect<void> }>()(
        "test/Store"
      ) {}
      const lines: Array<string> = []
      const store = Layer.effect(
        Store,
        Effect.gen(function* () {
          yield* Effect.addFinalizer(() => Effect.sync(() => lines.push("closed")))
          return { write: (line) => Effect.sync(() => lines.push(line)) }
        })
      )
      const writer = Layer.effectDiscard(
        Effect.gen(function* () {
          const { write } = yield* Store
          yield* Effect.addFinalizer(() => Effect.andThen(Effect.sleep("1 second"), write("flushed")))
        })
      )
      const app = yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [Child.layer("store", store), Child.layer("writer", writer)]
        })
      )
      const stop = yield* beginStop(app)
      yield* pass("1 second")
      yield* Fiber.join(stop)
      assert.deepStrictEqual(lines, ["flushed", "closed"])
    })
  )

  scenario("tells finalizers how the child ended: in order, or by which crash", () =>
    Effect.gen(function* () {
      const exits: Array<Exit.Exit<unknown, unknown>> = []
      const { a } = cast("a")
      const layer = Layer.merge(
        a.layer,
        Layer.effectDiscard(Effect.addFinalizer((exit) => Effect.sync(() => exits.push(exit))))
      )
      const app = yield* startApp("one_for_one", [Child.layer("a", layer)])
      yield* a.crash("told")
      yield* settle
      yield* app.stop
      assert.strictEqual(exits.length, 2)
      const [crash, end] = exits
      assert.strictEqual(Cause.squash((crash as Exit.Failure<unknown, unknown>).cause), "told")
      assert.isTrue(Exit.isSuccess(end!))
    })
  )

  scenario("restarts nobody: a child that crashes while it waits for its turn is only reported", () =>
    withLogs((lines) =>
      Effect.gen(function* () {
        const { a, b, c, journal } = cast("a", "b", "c")
        c.stopTakes = "1 second"
        const app = yield* startApp("one_for_one", [a.child(), b.child(), c.child()])
        journal.take()
        const stop = yield* beginStop(app)
        yield* a.crash("while others stop")
        yield* pass("1 second")
        yield* Fiber.join(stop)
        assert.strictEqual(journal.take(), "-c =c -b -a")
        assert.strictEqual(a.starts, 1)
        const reported = lines.filter(({ cause }) => cause.reasons.length > 0)
        assert.deepStrictEqual(
          reported.map(({ annotations, cause }) => [annotations["path"], Cause.squash(cause)]),
          [["App/a", "while others stop"]]
        )
      })
    )
  )

  scenario("ends a restart that is under way", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      const app = yield* startApp("one_for_one", [a.child(), b.child()])
      a.startTakes = "1 hour"
      yield* a.crash()
      yield* settle
      journal.take()
      yield* app.stop
      assert.strictEqual(journal.take(), "-b")
      yield* pass("2 hours")
      assert.strictEqual(a.alive, 0)
      assert.strictEqual(a.starts, 2)
    })
  )

  scenario("that comes while a crashed child is being stopped waits for it once", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      a.stopTakes = "1 second"
      const app = yield* startApp("one_for_one", [a.child(), b.child()])
      journal.take()
      yield* a.crash()
      yield* settle
      const stop = yield* beginStop(app)
      yield* pass("1 second")
      yield* Fiber.join(stop)
      assert.strictEqual(journal.take(), "-a =a -b")
    })
  )
})

describe("a shutdown timeout", () => {
  scenario("is 5 seconds for a worker, to the millisecond", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.stopTakes = "1 day"
      const app = yield* startApp("one_for_one", [a.child(), b.child()])
      journal.take()
      yield* beginStop(app)
      yield* pass(4999)
      assert.strictEqual(journal.take(), "-b")
      yield* pass(1)
      assert.strictEqual(journal.take(), "-a")
    })
  )

  scenario("is what the child says, to the millisecond", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.stopTakes = 251
      const app = yield* startApp("one_for_one", [a.child(), b.child({ shutdown: 250 })])
      journal.take()
      const stop = yield* beginStop(app)
      yield* pass(249)
      assert.strictEqual(journal.take(), "-b")
      yield* pass(1)
      assert.strictEqual(journal.take(), "-a")
      yield* Fiber.join(stop)
    })
  )

  scenario("that is not used up is not waited for", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      a.stopTakes = 250
      const app = yield* startApp("one_for_one", [a.child({ shutdown: 250 })])
      const stop = yield* beginStop(app)
      yield* pass(250)
      assert.strictEqual(journal.take(), "+a -a =a")
      yield* Fiber.join(stop)
      assert.strictEqual(a.alive, 0)
    })
  )

  for (const shutdown of ["brutal_kill", 0] as const) {
    scenario(`of ${JSON.stringify(shutdown)} does not wait, but the stop is still asked for`, () =>
      Effect.gen(function* () {
        const { a, b, journal } = cast("a", "b")
        b.stopTakes = "1 second"
        const app = yield* startApp("one_for_one", [a.child(), b.child({ shutdown })])
        journal.take()
        yield* app.stop
        assert.strictEqual(journal.take(), "-b -a")
        yield* pass("1 second")
        assert.strictEqual(journal.take(), "=b")
      })
    )
  }

  scenario('of "infinity" waits for as long as it takes', () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.stopTakes = "30 days"
      const app = yield* startApp("one_for_one", [a.child(), b.child({ shutdown: "infinity" })])
      journal.take()
      yield* beginStop(app)
      yield* pass("29 days")
      assert.strictEqual(journal.take(), "-b")
      yield* pass("1 day")
      assert.strictEqual(journal.take(), "=b -a")
    })
  )

  scenario("of a nested supervisor is infinite unless said otherwise: its children's timeouts add up", () =>
    Effect.gen(function* () {
      const { a, b, c, journal } = cast("a", "b", "c")
      b.stopTakes = c.stopTakes = "1 day"
      const inner = Supervisor.layer("Inner", { strategy: "one_for_one", children: [b.child(), c.child()] })
      const app = yield* startApp("one_for_one", [a.child(), Child.layer("inner", inner)])
      journal.take()
      yield* beginStop(app)
      yield* pass("5 seconds")
      assert.strictEqual(journal.take(), "-c -b")
      yield* pass(4999)
      assert.strictEqual(journal.take(), "")
      yield* pass(1)
      assert.strictEqual(journal.take(), "-a")
    })
  )

  scenario("of a nested supervisor can be limited", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.stopTakes = "1 hour"
      const inner = Supervisor.layer("Inner", {
        strategy: "one_for_one",
        children: [b.child({ shutdown: "infinity" })]
      })
      const app = yield* startApp("one_for_one", [a.child(), Child.layer("inner", inner, { shutdown: "1 second" })])
      journal.take()
      yield* beginStop(app)
      yield* pass(999)
      assert.strictEqual(journal.take(), "-b")
      yield* pass(1)
      assert.strictEqual(journal.take(), "-a")
    })
  )
})

describe("a finalizer that fails", () => {
  scenario("is reported with its child's path, and keeps nobody else from stopping", () =>
    withLogs((lines) =>
      Effect.gen(function* () {
        const { a, b, journal } = cast("a", "b")
        const rude = Layer.merge(b.layer, Layer.effectDiscard(Effect.addFinalizer(() => Effect.die("rude"))))
        const app = yield* startApp("one_for_one", [a.child(), Child.layer("b", rude)])
        journal.take()
        lines.length = 0
        yield* app.stop
        assert.strictEqual(journal.take(), "-b -a")
        const line = lines.find(({ cause }) => cause.reasons.length > 0)
        assert.strictEqual(line?.message, "child's finalizers failed")
        assert.strictEqual(line?.annotations["path"], "App/b")
        assert.strictEqual(line && Cause.squash(line.cause), "rude")
      })
    )
  )

  scenario("does not keep its own child from being restarted", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      a.whileStopping = Effect.die("rude")
      yield* startApp("one_for_one", [a.child()])
      yield* a.crash()
      yield* settle
      assert.strictEqual(journal.take(), "+a -a +a")
      a.whileStopping = Effect.void
    })
  )
})

describe("what is logged", () => {
  scenario("is one line per start, crash and restart, with path, incarnation, restarts and cause", () =>
    withLogs((lines) =>
      Effect.gen(function* () {
        const { a } = cast("a")
        yield* startApp("one_for_one", [a.child()])
        a.failingStarts = 1
        yield* a.crash("why")
        yield* settle
        assert.deepStrictEqual(
          lines.map(({ annotations, cause, level, message }) => [
            level,
            message,
            annotations["path"],
            annotations["incarnation"],
            annotations["restarts"],
            cause.reasons.length === 0 ? undefined : Cause.squash(cause)
          ]),
          [
            ["Info", "child started", "App/a", 1, 0, undefined],
            ["Error", "child crashed", "App/a", 1, 0, "why"],
            ["Error", "child failed to restart", "App/a", 2, 1, "a cannot start"],
            ["Info", "child restarted", "App/a", 3, 2, undefined]
          ]
        )
      })
    )
  )
})
