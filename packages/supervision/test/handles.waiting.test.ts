// Who waits in a Queue, a PubSub or a Deferred that a child provides waits in the structure itself: it must not be left
// there when nobody else can reach it any more.
import { Child, Supervisor } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, PubSub, Queue, Stream, SubscriptionRef } from "effect"
import { fork, unavailable } from "./fixtures/Box.ts"
import { rig } from "./fixtures/Rig.ts"
import { outcome, pass, scenario, settle, start } from "./fixtures/Scenario.ts"

class Numbers extends Context.Service<Numbers, Queue.Queue<number>>()("test/Numbers") {}
class Events extends Context.Service<Events, PubSub.PubSub<number>>()("test/Events") {}
class Done extends Context.Service<Done, Deferred.Deferred<number>>()("test/Done") {}
class State extends Context.Service<State, SubscriptionRef.SubscriptionRef<number>>()("test/State") {}

describe("who waits in a structure of an instance that died", () => {
  scenario("to take from its Queue, to offer to it or for its end: is told when the next instance is up", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Numbers, () => Queue.bounded<number>(1))
      const taker = yield* fork(Queue.take(service))
      const awaiter = yield* fork(Queue.await(service))
      const stream = yield* fork(Stream.runDrain(Stream.fromQueue(service)))
      actor.startTakes = "1 second"
      yield* crash
      yield* pass("1 second")
      for (const fiber of [taker, awaiter, stream]) {
        const { path, reason } = unavailable(outcome<unknown, unknown>(fiber))
        assert.deepStrictEqual([path, reason], ["App/a", "crashed"])
      }
      yield* Queue.offer(service, 1)
      const offerer = yield* fork(Queue.offer(service, 2))
      yield* crash
      yield* pass("1 second")
      assert.deepStrictEqual(outcome(offerer), Exit.succeed(false))
      yield* Queue.offer(service, 3)
      assert.strictEqual(yield* Queue.take(service), 3, "the new one is another")
    })
  )

  scenario("to take from its PubSub, or for the changes of its SubscriptionRef", () =>
    Effect.gen(function* () {
      const events = yield* rig(Events, () => PubSub.unbounded<number>())
      const state = yield* rig(State, (n) => SubscriptionRef.make(n))
      const subscription = yield* PubSub.subscribe(events.service)
      const takers = yield* Effect.forEach([1, 2], () => fork(PubSub.take(subscription)))
      const stream = yield* fork(Stream.runDrain(Stream.fromPubSub(events.service)))
      const changes = yield* fork(Stream.runDrain(SubscriptionRef.changes(state.service)))
      yield* settle
      yield* events.crash
      yield* state.crash
      for (const fiber of [...takers, stream, changes]) {
        assert.strictEqual(unavailable(outcome<unknown, unknown>(fiber)).reason, "crashed")
      }
      assert.notStrictEqual(outcome(yield* fork(PubSub.take(subscription))), "running", "nor does who takes later wait")
      yield* settle
      const next = yield* fork(Stream.runHead(Stream.fromPubSub(events.service)))
      yield* settle
      yield* PubSub.publish(events.service, 7)
      assert.strictEqual((yield* Fiber.join(next))._tag, "Some")
    })
  )

  scenario("for its Deferred", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Done, () => Deferred.make<number>())
      const waiter = yield* fork(Deferred.await(service))
      yield* crash
      assert.strictEqual(unavailable(outcome(waiter)).reason, "crashed")
      yield* Deferred.succeed(service, 2)
      assert.strictEqual(yield* Deferred.await(service), 2)
    })
  )

  scenario("when there is no next one: the tree was stopped, or gave up", () =>
    Effect.gen(function* () {
      const one = yield* rig(Numbers, () => Queue.unbounded<number>())
      const stopped = yield* fork(Queue.take(one.service))
      yield* one.app.stop
      assert.strictEqual(unavailable(outcome(stopped)).reason, "stopped")
      const two = yield* rig(Done, () => Deferred.make<number>(), { maxRestarts: 0 })
      const gaveUp = yield* fork(Deferred.await(two.service))
      yield* two.crash
      unavailable(outcome(gaveUp))
    })
  )
})

describe("a structure that is not the instance's own", () => {
  scenario("outlives it: the next instance provides it again", () =>
    Effect.gen(function* () {
      const queue = yield* Queue.unbounded<number>()
      const { app, crash, service } = yield* rig(Numbers, () => Effect.succeed(queue))
      const taker = yield* fork(Queue.take(service))
      yield* crash
      assert.strictEqual(outcome(taker), "running")
      yield* Queue.offer(service, 1)
      assert.strictEqual(yield* Fiber.join(taker), 1)
      yield* Queue.offer(service, 2)
      yield* app.stop
      assert.strictEqual(yield* Queue.take(queue), 2, "what is in it can be taken even when the tree is stopped")
    })
  )

  scenario("outlives it: another child provides it, of whom this one has it", () =>
    Effect.gen(function* () {
      class Alias extends Context.Service<Alias, Queue.Queue<number>>()("test/Alias") {}
      let blow: Effect.Effect<boolean> = Effect.succeed(false)
      const alias = Layer.effect(
        Alias,
        Effect.gen(function* () {
          const fuse = yield* Deferred.make<never>()
          blow = Deferred.die(fuse, "blown")
          yield* Effect.forkScoped(Deferred.await(fuse))
          return yield* Numbers
        })
      )
      const app = yield* start(
        Supervisor.layer("App", {
          strategy: "one_for_one",
          children: [
            Child.layer("numbers", Layer.effect(Numbers, Queue.unbounded<number>())),
            Child.layer("alias", alias, { restart: "temporary" })
          ]
        })
      )
      const taker = yield* fork(Queue.take(Context.get(app.context, Alias)))
      yield* blow
      yield* settle
      assert.strictEqual(outcome(taker), "running")
      yield* Queue.offer(Context.get(app.context, Numbers), 1)
      assert.strictEqual(yield* Fiber.join(taker), 1)
    })
  )
})
