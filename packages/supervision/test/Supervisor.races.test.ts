// What happens in the same breath as something else.
import { Child, Process, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { Box, fork, make } from "./fixtures/Box.ts"
import { withLogs } from "./fixtures/Logs.ts"
import { rig } from "./fixtures/Rig.ts"
import { outcome, pass, scenario, settle, start, startApp } from "./fixtures/Scenario.ts"

describe("a crash in the same breath", () => {
  scenario("as the instance comes up, by a caller that had waited for it, is not lost", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make)
      actor.startTakes = "1 second"
      yield* crash
      const callers = yield* Effect.forEach([1, 2, 3], () =>
        fork(Effect.exit(service.inside(Effect.suspend(() => actor.crash("again")))))
      )
      const patient = yield* fork(Effect.eventually(Effect.sandbox(service.inside(Effect.delay(service.number, 500)))))
      for (let n = 0; n < 5; n++) yield* pass("1 second")
      assert.isTrue(callers.every((caller) => outcome(caller) !== "running"))
      assert.strictEqual((yield* Tree.get("App/a")).status, "running")
      assert.strictEqual(actor.alive, 1)
      assert.isAbove(actor.starts, 2)
      yield* pass("1 second")
      assert.notStrictEqual(outcome(patient), "running")
    })
  )

  scenario("as another child of its group comes up begins the group anew", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      let once = true
      b.whileStarting = Effect.suspend(() => {
        if (!once || b.starts === 1) return Effect.void
        once = false
        return a.crash("from b's start")
      })
      yield* startApp("one_for_all", [a.child(), b.child()])
      journal.take()
      yield* b.crash()
      yield* settle
      assert.strictEqual(journal.take(), "-b -a +a +b -b -a +a +b")
      assert.strictEqual(a.mostAlive, 1)
      assert.strictEqual(b.mostAlive, 1)
    })
  )

  scenario("as it is killed and as it exits is one end", () =>
    Effect.gen(function* () {
      const seen: Array<Process.Process["Service"]> = []
      const { a, journal } = cast("a")
      const layer = Layer.merge(
        a.layer,
        Layer.effectDiscard(Effect.map(Process.Process, (process) => seen.push(process)))
      )
      yield* startApp("one_for_one", [Child.layer("a", layer)] as never)
      journal.take()
      yield* Effect.all([Tree.kill("App/a"), a.crash(), seen[0]!.exit(Exit.void), Tree.kill("App/a")])
      yield* settle
      assert.strictEqual(journal.take(), "-a +a")
      assert.strictEqual((yield* Tree.get("App/a")).restarts, 1)
    })
  )

  scenario("as its supervisor is stopped is not followed by a restart", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      const app = yield* startApp("one_for_one", [a.child(), b.child()])
      journal.take()
      yield* a.crash()
      yield* app.stop
      yield* settle
      assert.strictEqual(journal.take(), "-b -a")
    })
  )
})

describe("a stop in the same breath", () => {
  scenario("as the supervisor gives up waits for it, and stops nothing twice", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      b.stopTakes = "1 second"
      const app = yield* startApp("one_for_one", [a.child(), b.child()], { maxRestarts: 0 })
      journal.take()
      yield* a.crash()
      yield* settle
      const stop = yield* fork(app.stop)
      yield* settle
      assert.strictEqual(outcome(stop), "running")
      yield* pass("1 second")
      assert.notStrictEqual(outcome(stop), "running")
      assert.strictEqual(journal.take(), "-b =b -a")
    })
  )

  scenario("as a child ends for good stops it once", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      a.stopTakes = "1 second"
      const app = yield* startApp("one_for_one", [a.child({ restart: "temporary" })])
      journal.take()
      yield* a.crash()
      yield* settle
      const stop = yield* fork(app.stop)
      yield* pass("1 second")
      assert.notStrictEqual(outcome(stop), "running")
      assert.strictEqual(journal.take(), "-a =a")
    })
  )

  scenario("twice is one stop, and both are told of its end", () =>
    Effect.gen(function* () {
      const { a, journal } = cast("a")
      a.stopTakes = "1 second"
      const app = yield* startApp("one_for_one", [a.child()])
      journal.take()
      const first = yield* fork(app.stop)
      yield* fork(app.stop)
      yield* pass("1 second")
      yield* Fiber.join(first)
      assert.strictEqual(journal.take(), "-a =a")
    })
  )
})

describe("a fiber that fails while its child is stopped", () => {
  scenario("is reported, and changes nothing", () =>
    withLogs((lines) =>
      Effect.gen(function* () {
        const { a, b, journal } = cast("a", "b")
        const rude = Layer.effectDiscard(
          Effect.forkScoped(
            Effect.onExit(Effect.never, () => Effect.die("on my way out")),
            { startImmediately: true }
          )
        )
        const app = yield* startApp("one_for_one", [a.child(), Child.layer("b", Layer.merge(b.layer, rude))])
        journal.take()
        lines.length = 0
        yield* app.stop
        yield* settle
        assert.strictEqual(journal.take(), "-b -a")
        assert.deepStrictEqual(
          lines.map(({ cause, level, message }) => [level, message, Cause.squash(cause)]),
          [["Warn", "child failed while it was being stopped", "on my way out"]]
        )
      })
    )
  )
})

describe("what a child sees after a group restart", () => {
  class Late extends Context.Service<Late, { readonly number: number }>()("test/Late") {}

  scenario("is still only what is before it, also where the first of the group was dropped", () =>
    Effect.gen(function* () {
      const { b, first } = cast("first", "b")
      const seen: Array<boolean> = []
      const look = Layer.effectDiscard(
        Effect.map(Effect.context<never>(), (context) => seen.push(Context.getOrUndefined(context, Late) !== undefined))
      )
      yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_all",
          children: [
            first.child({ restart: "temporary" }),
            Child.layer("look", look),
            b.child(),
            Child.layer("late", Layer.succeed(Late, { number: 1 }))
          ]
        })
      )
      for (let n = 0; n < 3; n++) {
        yield* b.crash()
        yield* settle
      }
      assert.deepStrictEqual(seen, [false, false, false, false])
    })
  )

  scenario("is its siblings' handles, whatever was built with the outer context", () =>
    Effect.gen(function* () {
      const crash = yield* Deferred.make<never>()
      const seen: Array<number> = []
      const look = Layer.effectDiscard(
        Effect.gen(function* () {
          seen.push((yield* Late).number)
          if (seen.length === 1) yield* Effect.forkScoped(Deferred.await(crash))
        })
      )
      const App = Supervisor.layer("App", {
        strategy: "rest_for_one",
        children: [Child.layer("late", Layer.succeed(Late, { number: 2 })), Child.layer("look", look)]
      })
      yield* start(Layer.provide(App, Layer.succeed(Late, { number: 1 })))
      yield* Deferred.die(crash, "look again")
      yield* settle
      assert.deepStrictEqual(seen, [2, 2])
    })
  )
})
