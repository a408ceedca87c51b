// Presence as a process that crashes: who is tracked stays tracked, and nobody elsewhere notices.
import { type Presence, PubSub } from "@coppice/pubsub"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Scope, Stream } from "effect"
import { Bus } from "./fixtures/Bus.ts"
import { Fold, type Meta, names, type Node, pass, settle, shown, startNode, Viewers } from "./fixtures/PresenceNodes.ts"
import { seeded } from "./fixtures/Random.ts"

/** An application with presence as a child, and another node on its bus. */
const scenario = (
  options: Child.Options = {},
  strategy: Supervisor.Strategy = "one_for_one",
  viewers: typeof Viewers.layer = Viewers.layer
) =>
  Effect.gen(function* () {
    const bus = new Bus(seeded(1))
    const other = yield* startNode(bus)
    const scope = yield* Scope.make()
    const app = Supervisor.layer("App", {
      strategy,
      children: [Child.layer("pubsub", bus.layer()), Child.layer("viewers", viewers, options)]
    })
    const context = yield* Layer.buildWithScope(app, scope)
    const run: Node["run"] = (effect) => Effect.provideContext(effect, context)
    yield* pass("10 seconds")
    const lists = Effect.gen(function* () {
      const here = yield* run(Viewers.list(1))
      const elsewhere = yield* other.run(Viewers.list(1))
      const plain = (present: Presence.Present<Meta>) =>
        Array.from(present, ([key, entries]) =>
          entries.map(({ meta, node, ref }) => `${key} ${ref} ${meta.name} ${node}`)
        )
      assert.deepStrictEqual(plain(here).flat().toSorted(), plain(elsewhere).flat().toSorted())
      return Array.from(here.values(), (entries) => entries.map(({ meta }) => meta.name))
        .flat()
        .toSorted()
    })
    return { bus, other, run, lists, stop: Effect.andThen(Scope.close(scope, Exit.void), other.stop) }
  })

const diffsOn = (node: Node) => node.folds.get(1)?.diffs.splice(0) ?? []

describe("when presence crashes, what is tracked", () => {
  it.effect("is tracked by the next process with the same refs, and other nodes see no diff", () =>
    Effect.gen(function* () {
      const { lists, other, run, stop } = yield* scenario()
      const scope = yield* Scope.make()
      const ada = yield* run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(scope))
      const grace = yield* run(Viewers.track(1, "grace", { name: "Grace" })).pipe(Scope.provide(scope))
      yield* pass("2 seconds")
      const refs = [ada.ref, grace.ref]
      diffsOn(other)
      for (let crashes = 0; crashes < 3; crashes++) {
        yield* Tree.kill("App/viewers")
        yield* settle
        assert.strictEqual((yield* Tree.get("App/viewers")).restarts, crashes + 1)
        assert.deepStrictEqual(yield* lists, ["Ada", "Grace"])
        yield* pass("10 seconds")
        assert.deepStrictEqual(yield* lists, ["Ada", "Grace"])
      }
      assert.deepStrictEqual([ada.ref, grace.ref], refs)
      assert.deepStrictEqual(diffsOn(other), [])
      yield* ada.update({ name: "Ada!" })
      yield* grace.untrack
      yield* pass("2 seconds")
      assert.deepStrictEqual(yield* lists, ["Ada!"])
      yield* Scope.close(scope, Exit.void)
      yield* pass("2 seconds")
      assert.deepStrictEqual(yield* lists, [])
      yield* stop
    })
  )

  it.effect("is not gone for other nodes while the child that presence is part of takes its time to start", () =>
    Effect.gen(function* () {
      const slow = Layer.effectDiscard(Effect.sleep("8 seconds"))
      const child = Layer.merge(Viewers.layer, Layer.provideMerge(slow, Viewers.layer))
      const starting = yield* Effect.forkChild(scenario({}, "one_for_one", child), { startImmediately: true })
      yield* pass("10 seconds")
      yield* pass("10 seconds")
      const { lists, other, run, stop } = yield* Fiber.join(starting)
      const scope = yield* Scope.make()
      yield* run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(scope))
      yield* pass("2 seconds")
      diffsOn(other)
      yield* Tree.kill("App/viewers")
      for (let seconds = 0; seconds < 10; seconds++) yield* pass("1 second")
      assert.strictEqual((yield* Tree.get("App/viewers")).status, "running")
      assert.deepStrictEqual(yield* lists, ["Ada"])
      assert.deepStrictEqual(diffsOn(other), [])
      yield* Scope.close(scope, Exit.void)
      yield* stop
    })
  )

  it.effect("can be updated and untracked while there is no process, and new ones wait for it", () =>
    Effect.gen(function* () {
      const { lists, other, run, stop } = yield* scenario({ backoff: Schedule.spaced("5 seconds") })
      const scope = yield* Scope.make()
      const ada = yield* run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(scope))
      const grace = yield* run(Viewers.track(1, "grace", { name: "Grace" })).pipe(Scope.provide(scope))
      yield* pass("2 seconds")
      diffsOn(other)
      yield* Tree.kill("App/viewers")
      yield* settle
      const before = ada.ref
      yield* ada.update({ name: "Ada!" })
      yield* grace.untrack
      const again = yield* run(Effect.flip(Viewers.track(1, "ada", { name: "twice" }))).pipe(Scope.provide(scope))
      assert.strictEqual(again._tag, "AlreadyTracked")
      const alan = yield* Effect.forkChild(run(Viewers.track(1, "alan", { name: "Alan" })).pipe(Scope.provide(scope)))
      const nobody = yield* Effect.forkChild(
        run(Viewers.track(1, "nobody", { name: "Nobody" })).pipe(Scope.provide(scope))
      )
      yield* settle
      assert.isUndefined(alan.pollUnsafe())
      yield* Fiber.interrupt(nobody)
      yield* pass("10 seconds")
      yield* Fiber.join(alan)
      // Who gave up waiting is not tracked, and may be again.
      const later = yield* run(Viewers.track(1, "nobody", { name: "Nobody" })).pipe(Scope.provide(scope))
      yield* later.untrack
      assert.deepStrictEqual(yield* lists, ["Ada!", "Alan"])
      const left = diffsOn(other).flatMap(({ leaves }) => [...leaves.keys()])
      assert.deepStrictEqual(left.toSorted(), ["ada", "grace"])
      assert.strictEqual((yield* other.run(Viewers.getByKey(1, "ada")))[0]?.previousRef, before)
      yield* Scope.close(scope, Exit.void)
      yield* stop
    })
  )

  it.effect("is told to nobody any more once its scope has closed, also if that was while there was no process", () =>
    Effect.gen(function* () {
      const { lists, run, stop } = yield* scenario({ backoff: Schedule.spaced("5 seconds") })
      const scope = yield* Scope.make()
      yield* run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(scope))
      yield* pass("2 seconds")
      yield* Tree.kill("App/viewers")
      yield* settle
      yield* Scope.close(scope, Exit.void)
      yield* pass("20 seconds")
      assert.deepStrictEqual(yield* lists, [])
      yield* stop
    })
  )

  it.effect("goes on in `diffs` and `changes`, which see what has changed meanwhile", () =>
    Effect.gen(function* () {
      const { other, run, stop } = yield* scenario({ backoff: Schedule.spaced("5 seconds") })
      const scope = yield* Scope.make()
      yield* run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(scope))
      yield* other.track(1, "grace", "Grace")
      const alan = yield* other.track(1, "alan", "Alan")
      yield* pass("2 seconds")
      const fold = new Fold()
      const lists: Array<ReadonlyArray<string>> = []
      yield* Effect.gen(function* () {
        const { diffs, present } = yield* Viewers.subscribe(1)
        fold.start(present)
        yield* Effect.forkScoped(Stream.runForEach(diffs, (diff) => Effect.sync(() => fold.add(diff))))
        yield* Effect.forkScoped(
          Stream.runForEach(Viewers.changes(1), (present) =>
            Effect.sync(() => lists.push([...present.keys()].toSorted()))
          )
        )
      }).pipe(run, Scope.provide(scope))
      yield* settle
      yield* Tree.kill("App/viewers")
      yield* settle
      yield* Scope.close(alan.scope, Exit.void)
      yield* other.track(1, "kay", "Kay")
      yield* pass("20 seconds")
      assert.deepStrictEqual(fold.wrong, [])
      assert.deepStrictEqual(fold.shown(), yield* shown(other, 1))
      assert.deepStrictEqual(
        fold.diffs.map(({ joins, leaves }) => [[...joins.keys()], [...leaves.keys()]]),
        [[["kay"], ["alan"]]]
      )
      assert.deepStrictEqual(lists, [
        ["ada", "alan", "grace"],
        ["ada", "grace", "kay"]
      ])
      yield* other.track(1, "edsger", "Edsger")
      yield* pass("2 seconds")
      assert.deepStrictEqual(lists.at(-1), ["ada", "edsger", "grace", "kay"])
      assert.deepStrictEqual(fold.shown(), yield* shown(other, 1))
      yield* Scope.close(scope, Exit.void)
      yield* stop
    })
  )
})

describe("when presence crashes again and again", () => {
  for (const whileDown of ["wait", "fail"] as const) {
    it.effect(`nobody leaves and no reader ends, also where calls ${whileDown} while it is down`, () =>
      Effect.gen(function* () {
        const { lists, other, run, stop } = yield* scenario({ whileDown, backoff: Schedule.spaced("1 second") })
        const scope = yield* Scope.make()
        yield* run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(scope))
        yield* pass("2 seconds")
        const fold = new Fold()
        let seen: ReadonlyArray<string> = []
        yield* Effect.gen(function* () {
          yield* Effect.forkScoped(Stream.runForEach(Viewers.diffs(1), (diff) => Effect.sync(() => fold.add(diff))))
          yield* Effect.forkScoped(
            Stream.runForEach(Viewers.changes(1), (present) =>
              Effect.sync(() => {
                seen = [...present.keys()].toSorted()
              })
            )
          )
        }).pipe(run, Scope.provide(scope))
        yield* settle
        diffsOn(other)
        for (const moment of [0, 500, 1_500, 1_100]) {
          for (let millis = 0; millis < moment; millis += 100) yield* pass("100 millis")
          yield* Tree.kill("App/viewers")
          yield* settle
          for (let millis = 0; millis < 1_200; millis += 100) yield* pass("100 millis")
        }
        yield* pass("5 seconds")
        assert.deepStrictEqual(yield* lists, ["Ada"])
        assert.deepStrictEqual(diffsOn(other), [])
        yield* other.track(1, "grace", "Grace")
        yield* pass("2 seconds")
        assert.deepStrictEqual(seen, ["ada", "grace"])
        assert.deepStrictEqual(
          fold.diffs.map(({ joins, leaves }) => [[...joins.keys()], [...leaves.keys()]]),
          [[["grace"], []]]
        )
        yield* Scope.close(scope, Exit.void)
        yield* stop
      })
    )
  }
})

describe("when PubSub crashes", () => {
  for (const strategy of ["one_for_one", "rest_for_one", "one_for_all"] as const) {
    it.effect(`presence goes on with the new node id, and other nodes see no diff (${strategy})`, () =>
      Effect.gen(function* () {
        const { bus, lists, other, run, stop } = yield* scenario({}, strategy)
        const scope = yield* Scope.make()
        const { ref } = yield* run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(scope))
        yield* other.track(1, "grace", "Grace")
        yield* pass("2 seconds")
        const before = (yield* run(PubSub.PubSub)).node
        diffsOn(other)
        yield* Tree.kill("App/pubsub")
        yield* pass("5 seconds")
        assert.notStrictEqual((yield* run(PubSub.PubSub)).node, before)
        assert.strictEqual((yield* Tree.get("App/viewers")).incarnation, strategy === "one_for_one" ? 1 : 2)
        assert.deepStrictEqual(yield* lists, ["Ada", "Grace"])
        assert.deepStrictEqual(diffsOn(other), [])
        assert.strictEqual((yield* other.run(Viewers.getByKey(1, "ada")))[0]?.ref, ref)
        assert.strictEqual((yield* other.run(Viewers.peers)).length, 1)
        bus.replay(() => true)
        bus.echo(before, (yield* run(PubSub.PubSub)).node)
        yield* settle
        assert.strictEqual((yield* run(Viewers.peers)).length, 1)
        yield* pass("2 minutes")
        assert.deepStrictEqual(yield* lists, ["Ada", "Grace"])
        assert.deepStrictEqual(diffsOn(other), [])
        yield* Scope.close(scope, Exit.void)
        yield* pass("2 seconds")
        assert.deepStrictEqual(yield* names(other), ["Grace"])
        yield* stop
      })
    )
  }
})

describe("when a PubSub of one node crashes", () => {
  it.effect("presence goes on", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const app = Supervisor.layer("App", {
        strategy: "one_for_one",
        children: [Child.layer("pubsub", PubSub.layerLocal), Child.layer("viewers", Viewers.layer)]
      })
      const context = yield* Layer.buildWithScope(app, scope)
      yield* Effect.gen(function* () {
        yield* Viewers.track(1, "ada", { name: "Ada" })
        yield* Tree.kill("App/pubsub")
        yield* pass("2 seconds")
        assert.strictEqual((yield* Tree.get("App/viewers")).restarts, 0)
        const [entry] = yield* Viewers.getByKey(1, "ada")
        assert.strictEqual(entry?.node, (yield* PubSub.PubSub).node)
      }).pipe(Scope.provide(scope), Effect.provideContext(context))
      yield* Scope.close(scope, Exit.void)
    })
  )
})

describe("the end", () => {
  it.effect("of the application ends what follows presence, and leaves no one tracked elsewhere", () =>
    Effect.gen(function* () {
      const { run, stop } = yield* scenario()
      const outer = yield* Scope.make()
      yield* run(Viewers.track(1, "ada", { name: "Ada" })).pipe(Scope.provide(outer))
      const following = yield* Effect.forkChild(run(Stream.runDrain(Viewers.diffs(1))))
      const watching = yield* Effect.forkChild(run(Stream.runDrain(Viewers.changes(1))))
      yield* pass("2 seconds")
      yield* stop
      yield* settle
      for (const fiber of [following, watching]) assert.isDefined(fiber.pollUnsafe())
      yield* Scope.close(outer, Exit.void)
    })
  )
})
