// What happens to calls through a handle while the child is down, and when the instance they run on dies: none hangs.
import { Child, Supervisor } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Latch, Layer, Schema, Stream } from "effect"
import { cast } from "./fixtures/Actor.ts"
import { Box, fork, make, unavailable } from "./fixtures/Box.ts"
import { rig } from "./fixtures/Rig.ts"
import { outcome, pass, scenario, settle, start } from "./fixtures/Scenario.ts"

describe("a call while the child is down", () => {
  scenario("waits until it is up again", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make)
      actor.startTakes = "1 second"
      yield* crash
      const calls = yield* Effect.forEach([service.number, service.inside(service.number)], fork)
      yield* pass(999)
      assert.deepStrictEqual(calls.map(outcome), ["running", "running"])
      yield* pass(1)
      assert.deepStrictEqual(yield* Effect.forEach(calls, Fiber.join), [2, 2])
    })
  )

  scenario("waits through any number of failed restarts", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make)
      actor.startTakes = "1 second"
      actor.failingStarts = 10
      yield* crash
      const call = yield* fork(service.number)
      yield* pass("10 seconds")
      assert.strictEqual(outcome(call), "running")
      yield* pass("1 second")
      assert.strictEqual(yield* Fiber.join(call), 2)
    })
  )

  scenario("waits also where the dead instance would only complain", () =>
    Effect.gen(function* () {
      class Strict extends Context.Service<Strict, { readonly get: () => Effect.Effect<number> }>()("test/Strict") {}
      const { actor, crash, service } = yield* rig(Strict, (n) =>
        Effect.gen(function* () {
          let closed = false
          yield* Effect.addFinalizer(() => Effect.sync(() => (closed = true)))
          return {
            get: () => {
              if (closed) throw new Error("used after close")
              return Effect.succeed(n)
            }
          }
        })
      )
      // Known to answer with an effect from here on: what never did throws, as it does when the child is up.
      assert.strictEqual(yield* service.get(), 1)
      actor.startTakes = "1 second"
      yield* crash
      const call = yield* fork(service.get())
      yield* pass("1 second")
      assert.deepStrictEqual(outcome(call), Exit.succeed(2))
    })
  )

  scenario('fails at once with whileDown: "fail", and works again when the child does', () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make, { whileDown: "fail" })
      actor.startTakes = "1 second"
      yield* crash
      const error = unavailable(yield* Effect.exit(service.number))
      assert.strictEqual(error.path, "App/a")
      assert.strictEqual(error.reason, "restarting")
      unavailable(yield* Effect.exit(Stream.runDrain(service.ticks)))
      yield* pass("1 second")
      assert.strictEqual(yield* service.number, 2)
    })
  )

  scenario("can be interrupted while it waits, and leaves nothing behind", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make)
      actor.startTakes = "1 second"
      yield* crash
      const call = yield* fork(service.number)
      yield* Fiber.interrupt(call)
      assert.notStrictEqual(outcome(call), "running")
      yield* pass("1 second")
      assert.strictEqual(yield* service.number, 2)
    })
  )

  scenario("can be timed out like anything else", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make)
      actor.startTakes = "1 hour"
      yield* crash
      const call = yield* fork(Effect.timeoutOption(service.number, "1 second"))
      yield* pass("1 second")
      assert.strictEqual((yield* Fiber.join(call))._tag, "None")
    })
  )

  scenario("ends at once for all who wait when the supervisor gives up", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Box, make, { maxRestarts: 1 })
      actor.startTakes = "1 second"
      actor.failingStarts = 10
      yield* crash
      const calls = yield* Effect.forEach(
        Array.from({ length: 100 }, (_, n) => (n % 2 === 0 ? service.number : Effect.uninterruptible(service.number))),
        fork
      )
      yield* pass(999)
      assert.isTrue(calls.every((call) => outcome(call) === "running"))
      yield* pass(1)
      for (const call of calls) {
        const error = unavailable(outcome(call))
        assert.strictEqual(error.reason, "gave up")
        assert.strictEqual(error.message, "App/a is not available: its supervisor gave up restarting")
      }
    })
  )

  scenario("ends at once when the tree is stopped", () =>
    Effect.gen(function* () {
      const { actor, app, crash, service } = yield* rig(Box, make)
      actor.startTakes = "1 hour"
      yield* crash
      const call = yield* fork(service.number)
      yield* app.stop
      assert.strictEqual(unavailable(outcome(call)).reason, "stopped")
      assert.strictEqual(unavailable(yield* Effect.exit(service.number)).reason, "stopped")
    })
  )

  scenario("of a nested supervisor's child waits while the supervisor above is restarting", () =>
    Effect.gen(function* () {
      const { a } = cast("a")
      let instances = 0
      const layer = Layer.effect(
        Box,
        Effect.suspend(() => make(++instances))
      ).pipe(Layer.provideMerge(a.layer))
      const inner = Supervisor.layer("Inner", {
        strategy: "one_for_one",
        maxRestarts: 0,
        children: [Child.layer("a", layer)]
      })
      const app = yield* start(
        Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("inner", inner)] })
      )
      const service = Context.get(app.context, Box)
      assert.strictEqual(yield* service.number, 1)
      const hanging = yield* fork(service.hang)
      a.startTakes = "1 second"
      yield* a.crash()
      yield* settle
      unavailable(outcome(hanging))
      const call = yield* fork(service.number)
      yield* settle
      assert.strictEqual(outcome(call), "running")
      yield* pass("1 second")
      assert.strictEqual(outcome(call) === "running" ? 0 : yield* Fiber.join(call), 2)
    })
  )
})

describe("a call that runs when its instance crashes", () => {
  scenario("ends at once with ChildUnavailable, which names the path and carries the cause", () =>
    Effect.gen(function* () {
      const { actor, service } = yield* rig(Box, make)
      const calls = yield* Effect.forEach([service.hang, service.hanging(), service.inside(Effect.never)], fork)
      const stream = yield* fork(Stream.runDrain(service.ticks))
      yield* settle
      yield* actor.crash(new Error("why"))
      yield* settle
      for (const call of [...calls, stream]) {
        const error = unavailable(outcome<unknown, unknown>(call))
        assert.strictEqual(error.path, "App/a")
        assert.strictEqual(error.reason, "crashed")
        assert.strictEqual(error.message, "App/a is not available: it crashed while the call was running")
        const why = Cause.squash(error.cause as Cause.Cause<unknown>)
        assert.strictEqual(why instanceof Error ? why.message : why, "why")
      }
    })
  )

  scenario("ends at once even when the crashed instance takes its time to stop", () =>
    Effect.gen(function* () {
      const { actor, service } = yield* rig(Box, make)
      actor.stopTakes = "3 seconds"
      const call = yield* fork(service.hang)
      yield* actor.crash()
      yield* settle
      unavailable(outcome(call))
      const next = yield* fork(service.number)
      yield* pass("3 seconds")
      assert.strictEqual(yield* Fiber.join(next), 2)
    })
  )

  scenario("ends at once even when the rest of its group takes its time to stop", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      const layer = Layer.effect(Box, make(1)).pipe(Layer.provideMerge(a.layer))
      b.stopTakes = "3 seconds"
      const app = yield* start(
        Supervisor.layer("App", { strategy: "one_for_all", children: [Child.layer("a", layer), b.child()] })
      )
      const call = yield* fork(Context.get(app.context, Box).hang)
      yield* a.crash()
      yield* settle
      unavailable(outcome(call))
    })
  )

  scenario("ends at once even when the supervisor gives up and others take their time to stop", () =>
    Effect.gen(function* () {
      const { a, b } = cast("a", "b")
      const layer = Layer.effect(Box, make(1)).pipe(Layer.provideMerge(a.layer))
      b.stopTakes = "3 seconds"
      const app = yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          maxRestarts: 0,
          children: [Child.layer("a", layer), b.child()]
        })
      )
      const { hang, number } = Context.get(app.context, Box)
      const call = yield* fork(hang)
      yield* a.crash()
      yield* settle
      unavailable(outcome(call))
      unavailable(yield* Effect.exit(number))
    })
  )

  scenario("runs its finalizers before its caller goes on", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const { crash, service } = yield* rig(Box, make)
      const gate = yield* Latch.make()
      const call = yield* fork(
        service
          .inside(
            Effect.onExit(Effect.never, () =>
              Effect.andThen(
                gate.await,
                Effect.sync(() => log.push("released"))
              )
            )
          )
          .pipe(Effect.onExit(() => Effect.sync(() => log.push("told"))))
      )
      yield* crash
      assert.deepStrictEqual(log, [])
      yield* gate.open
      yield* settle
      assert.deepStrictEqual(log, ["released", "told"])
      unavailable(outcome(call))
    })
  )

  scenario("does not keep its caller waiting longer than the child's shutdown when it will not end", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make, { shutdown: "2 seconds" })
      const call = yield* fork(service.inside(Effect.uninterruptible(Effect.never)))
      yield* crash
      yield* pass(1999)
      assert.strictEqual(outcome(call), "running")
      yield* pass(1)
      unavailable(outcome(call))
    })
  )

  scenario('ends for its caller in the end also when the child\'s shutdown is "infinity"', () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make, { shutdown: "infinity" })
      const call = yield* fork(service.inside(Effect.uninterruptible(Effect.never)))
      yield* crash
      yield* pass("1 minute")
      unavailable(outcome(call))
    })
  )

  scenario("ends for a caller that is uninterruptible itself", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make, { shutdown: "infinity" })
      const calls = yield* Effect.forEach(
        [
          Effect.uninterruptible(service.hang),
          Effect.acquireRelease(service.hang, () => Effect.void),
          Effect.uninterruptibleMask((restore) => restore(service.hang)),
          Effect.ensuring(Effect.void, service.hang)
        ],
        fork
      )
      yield* crash
      for (const call of calls) unavailable(outcome(call))
    })
  )

  scenario("of an uninterruptible caller is not interrupted by anybody else", () =>
    Effect.gen(function* () {
      const gate = yield* Latch.make()
      const { service } = yield* rig(Box, make)
      const log: Array<string> = []
      const call = yield* fork(
        Effect.uninterruptible(
          service.inside(
            Effect.andThen(
              gate.await,
              Effect.sync(() => log.push("done"))
            )
          )
        )
      )
      const interrupting = yield* fork(Fiber.interrupt(call))
      yield* settle
      assert.strictEqual(outcome(interrupting), "running")
      yield* gate.open
      yield* settle
      assert.deepStrictEqual(log, ["done"])
      assert.notStrictEqual(outcome(interrupting), "running")
    })
  )

  scenario("and is being interrupted, but will not end, does not hold its caller for ever", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make, { shutdown: "1 second" })
      const call = yield* fork(service.inside(Effect.uninterruptible(Effect.never)))
      yield* fork(Fiber.interrupt(call))
      yield* crash
      yield* pass("1 second")
      assert.notStrictEqual(outcome(call), "running")
    })
  )

  scenario("that catches the end of its instance and goes on is still held to its dead instance", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Box, make)
      const gate = yield* Latch.make()
      const call = yield* fork(
        service.inside(Effect.uninterruptible(Effect.andThen(gate.await, Effect.exit(service.number))))
      )
      yield* crash
      yield* gate.open
      yield* settle
      const exit = outcome(call)
      // Whichever way the caller learns it: nothing of the call reached the new instance.
      if (exit !== "running" && Exit.isSuccess(exit)) unavailable(exit.value)
      else unavailable(exit)
    })
  )

  scenario(
    "does not say that it succeeded, whatever it still brought to an end: that may be lost with the instance",
    () =>
      Effect.gen(function* () {
        const { crash, service } = yield* rig(Box, make)
        const gate = yield* Latch.make()
        const call = yield* fork(service.inside(Effect.uninterruptible(Effect.as(gate.await, "committed"))))
        yield* crash
        assert.strictEqual(outcome(call), "running")
        yield* gate.open
        yield* settle
        assert.strictEqual(unavailable(outcome(call)).reason, "crashed")
      })
  )

  scenario("by its own doing ends as well", () =>
    Effect.gen(function* () {
      const { actor, service } = yield* rig(Box, make)
      const call = yield* fork(service.inside(Effect.andThen(actor.crash(), Effect.never)))
      yield* settle
      assert.strictEqual(unavailable(outcome(call)).reason, "crashed")
    })
  )

  scenario("has its answer when it ended in the same breath", () =>
    Effect.gen(function* () {
      const { actor, service } = yield* rig(Box, make)
      assert.strictEqual(yield* service.inside(Effect.as(actor.crash(), "answer")), "answer")
      yield* settle
      assert.strictEqual(yield* service.number, 2)
    })
  )

  scenario("typed errors are the caller's and pass through unchanged", () =>
    Effect.gen(function* () {
      class Refused extends Schema.TaggedError<Refused>()("Refused", { by: Schema.String }) {}
      const refused = new Refused({ by: "me" })
      const { service } = yield* rig(Box, make)
      assert.strictEqual(yield* Effect.flip(service.inside(Effect.fail(refused))), refused)
      const caught = service
        .inside(Effect.andThen(Effect.sleep(1), Effect.fail(refused)))
        .pipe(Effect.catchTag("Refused", (error) => Effect.succeed(error.by)))
      const call = yield* fork(caught)
      yield* pass(1)
      assert.strictEqual(yield* Fiber.join(call), "me")
    })
  )
})

describe("a call and its caller", () => {
  scenario("share their span, and a call that need not wait is synchronous", () =>
    Effect.gen(function* () {
      const { service } = yield* rig(Box, make)
      assert.strictEqual(Effect.runSync(service.number), 1)
      const seen = yield* Effect.withSpan(
        Effect.all([Effect.currentSpan, service.inside(Effect.andThen(Effect.yieldNow, Effect.currentSpan))]),
        "outer"
      )
      assert.strictEqual(seen[0], seen[1])
    })
  )

  scenario("known limit: a fiber that a call forks as its child ends with the call, not with the caller", () =>
    Effect.gen(function* () {
      const { service } = yield* rig(Box, make)
      const child = yield* service.inside(Effect.forkChild(Effect.never, { startImmediately: true }))
      yield* settle
      assert.notStrictEqual(outcome(child), "running")
      const scoped = yield* service.inside(Effect.forkScoped(Effect.never, { startImmediately: true }))
      assert.strictEqual(outcome(scoped), "running")
    })
  )
})
