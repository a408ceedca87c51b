import { Application, Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Deferred, Effect, Exit, Layer, Logger } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { giveUpOf, launch } from "./fixtures/GiveUp.ts"
import { withLogs } from "./fixtures/Logs.ts"
import { outcome, pass, scenario, settle } from "./fixtures/Scenario.ts"

describe("Application.launch", () => {
  for (const [how, hide] of [
    ["Layer.fresh", <E>(layer: Layer.Layer<never, E>) => Layer.fresh(layer)],
    ["a layer that is built by hand", <E>(layer: Layer.Layer<never, E>) => Layer.effectDiscard(Layer.build(layer))]
  ] as const) {
    scenario(`ends with a root that gives up behind ${how}`, () =>
      Effect.gen(function* () {
        const { a, journal } = cast("a")
        const App = Supervisor.layer("App", { strategy: "one_for_one", maxRestarts: 0, children: [a.child()] })
        const app = yield* launch(hide(App))
        yield* a.crash()
        yield* settle
        assert.strictEqual(journal.take(), "+a -a")
        assert.strictEqual(giveUpOf(outcome(app)).path, "App")
      })
    )
  }

  scenario("goes on with another tree where one did not start and that was expected", () =>
    Effect.gen(function* () {
      const { a, b, journal } = cast("a", "b")
      const First = Supervisor.layer("First", {
        strategy: "one_for_one",
        maxRestarts: 0,
        children: [a.child(), b.child()]
      })
      const Second = Supervisor.layer("Second", { strategy: "one_for_one", children: [a.child()] })
      b.startTakes = "1 second"
      const app = yield* launch(Layer.catch(First, () => Second))
      yield* a.crash()
      yield* pass("1 second")
      assert.strictEqual(outcome(app), "running")
      assert.strictEqual(journal.take(), "+a -a +a")
      assert.strictEqual((yield* Tree.get("Second")).status, "running")
    })
  )

  scenario("ends with a fiber of its layer that fails and that no supervisor has", () =>
    Effect.gen(function* () {
      const crash = yield* Deferred.make<never>()
      const app = yield* launch(Layer.effectDiscard(Effect.forkScoped(Deferred.await(crash))))
      assert.strictEqual(outcome(app), "running")
      yield* Deferred.die(crash, "the fiber failed")
      yield* settle
      assert.deepStrictEqual(outcome(app), Exit.die("the fiber failed"))
    })
  )

  scenario("shows the tree it started, also where its layer keeps that to itself", () =>
    withLogs((lines) =>
      Effect.gen(function* () {
        const App = Supervisor.layer("App", { strategy: "one_for_one", children: [Child.effect("a", Effect.never)] })
        yield* launch(Layer.provide(App, Layer.fresh(Tree.layer)))
        assert.strictEqual(
          lines.find(({ message }) => message.startsWith("application started"))?.message,
          "application started\nApp (one_for_one)  running\n└─ a  running"
        )
      })
    )
  )

  scenario("says so to the loggers that its layer brings along", () =>
    Effect.gen(function* () {
      const messages: Array<string> = []
      const logger = Logger.layer([Logger.make(({ message }) => messages.push(String(message)))])
      const App = Supervisor.layer("App", { strategy: "one_for_one", children: [Child.effect("a", Effect.never)] })
      yield* Effect.forkScoped(Application.launch(Layer.provideMerge(App, logger)), { startImmediately: true })
      yield* settle
      assert.deepStrictEqual(messages, [
        "child started",
        "application started\nApp (one_for_one)  running\n└─ a  running"
      ])
    })
  )
})
