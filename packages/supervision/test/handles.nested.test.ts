// Handles of handles: what a supervisor inside a supervisor provides to those outside.
import { Child, GenServer, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Latch, Layer, Stream } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { Box, fork, make, unavailable } from "./fixtures/Box.ts"
import { outcome, pass, scenario, settle, start } from "./fixtures/Scenario.ts"

class Counter extends GenServer.Service<Counter>()("test/Counter", {
  init: () => Effect.succeed(0),
  calls: {
    add: (n, by: number) => Effect.succeed(GenServer.reply(n + by, n + by)),
    hang: () => Effect.never as Effect.Effect<GenServer.Reply<number, number>>
  },
  casts: { set: (_n, to: number) => Effect.succeed(to) }
}) {}

/** App/middle/inner with the child that has this layer. */
const nested = <ROut, E>(layer: Layer.Layer<ROut, E>, options: Child.Options = {}) => {
  const inner = Supervisor.layer("Inner", { strategy: "one_for_one", children: [Child.layer("leaf", layer, options)] })
  const middle = Supervisor.layer("Middle", { strategy: "one_for_one", children: [Child.layer("inner", inner)] })
  return start(Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("middle", middle)] }))
}

const paths = ["App/middle/inner/leaf", "App/middle/inner", "App/middle"]

describe("from outside of nested supervisors", () => {
  scenario("a service reaches its running instance, whichever level was restarted", () =>
    Effect.gen(function* () {
      let instances = 0
      const app = yield* nested(
        Layer.effect(
          Box,
          Effect.suspend(() => make(++instances))
        )
      )
      const box = Context.get(app.context, Box)
      const { number } = box
      for (const path of paths) {
        const before = instances
        const hanging = yield* fork(box.hang)
        const stream = yield* fork(Stream.runDrain(box.ticks))
        yield* settle
        yield* Tree.kill(path)
        yield* settle
        assert.strictEqual(yield* number, before + 1)
        assert.strictEqual(yield* box.inside(box.number), before + 1)
        assert.include(paths, unavailable(outcome(hanging)).path)
        unavailable(outcome(stream))
      }
    })
  )

  scenario("a call inside a call stays on one instance, whichever level is restarted meanwhile", () =>
    Effect.gen(function* () {
      let instances = 0
      const app = yield* nested(
        Layer.effect(
          Box,
          Effect.suspend(() => make(++instances))
        ),
        { shutdown: "1 second" }
      )
      const box = Context.get(app.context, Box)
      for (const path of paths) {
        const before = instances
        const gate = yield* Latch.make()
        const seen: Array<unknown> = []
        const call = yield* fork(
          box.inside(
            Effect.gen(function* () {
              seen.push(yield* box.number)
              yield* gate.await
              const exit = yield* Effect.exit(box.number)
              seen.push(Exit.isSuccess(exit) ? exit.value : "failed")
            }).pipe(Effect.uninterruptible)
          )
        )
        yield* Tree.kill(path)
        yield* settle
        yield* gate.open
        yield* pass("1 second")
        assert.deepStrictEqual(seen, [before, "failed"], path)
        assert.notStrictEqual(outcome(call), "running")
        assert.strictEqual(yield* box.number, before + 1)
      }
    })
  )

  scenario("a GenServer answers its class's calls, casts and stop", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      const app = yield* nested(Layer.provideMerge(Counter.layer(), a.layer))
      yield* Effect.gen(function* () {
        for (const path of paths) {
          assert.strictEqual(yield* Counter.add(1), 1)
          yield* Counter.set(5)
          assert.strictEqual(yield* Counter.add(1), 6)
          const { add } = yield* Counter
          assert.strictEqual(yield* add(1), 7)
          const hanging = yield* fork(Effect.exit(Counter.hang()))
          yield* settle
          yield* Tree.kill(path)
          yield* settle
          const exit = outcome(hanging)
          assert.isTrue(exit !== "running" && Exit.isSuccess(exit) && Exit.isFailure(exit.value), path)
        }
        yield* Counter.stop()
        yield* settle
        assert.strictEqual(yield* Counter.add(1), 1)
        a.startTakes = "1 second"
        yield* a.crash()
        yield* settle
        const waiting = yield* fork(Counter.add(2))
        yield* settle
        assert.strictEqual(outcome(waiting), "running")
        yield* pass("1 second")
        assert.strictEqual(yield* Fiber.join(waiting), 2)
      }).pipe(Effect.provideContext(app.context))
    })
  )
})
