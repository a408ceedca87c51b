// Presence on many nodes: Phoenix's rules, one by one.
import { Presence } from "@coppice/pubsub"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Layer, Metric, Schema, Scope } from "effect"
import {
  end,
  makeBus,
  names,
  pair,
  pass,
  refs,
  sentBy,
  settle,
  startNode,
  told,
  Viewers
} from "./fixtures/PresenceNodes.ts"

/** What `Viewers` is in later code. */
class Newer extends Presence.Service<Newer>()("test/Viewers", {
  topic: Schema.Int,
  meta: Schema.Struct({ name: Schema.Union([Schema.String, Schema.Int]) })
}) {}

const undecodable = Effect.map(Metric.snapshot, (all) => {
  const found = all.find(({ id }) => id === "coppice_presence_undecodable_total")
  return found?.type === "Counter" ? Number(found.state.count) : 0
})

describe("entries", () => {
  it.effect("of a node are seen on the others, with the metas that came through the schema", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      const here = yield* one.track(1, "ada", "Ada")
      assert.deepStrictEqual(yield* names(one), ["Ada"], "at once where it is tracked")
      yield* settle
      const entry = {
        ref: here.tracked.ref,
        previousRef: undefined,
        node: one.id,
        meta: { name: "Ada" },
        fetched: undefined
      }
      assert.deepStrictEqual(yield* other.run(Viewers.list(1)), new Map([["ada", [entry]]]))
      assert.deepStrictEqual(told(other), [{ joins: [here.tracked.ref], leaves: [] }])
      yield* Scope.close(here.scope, Exit.void)
      assert.deepStrictEqual(yield* names(one), [])
      yield* pass("1500 millis")
      assert.deepStrictEqual(yield* names(other), [])
      assert.deepStrictEqual(told(other), [{ joins: [], leaves: [here.tracked.ref] }])
      yield* end(one, other)
    })
  )

  it.effect(
    "of one key on several nodes are all listed, in the same order everywhere, and the key leaves with the last",
    () =>
      Effect.gen(function* () {
        const bus = makeBus()
        const [one, other] = yield* pair(bus)
        const phone = yield* one.track(1, "ada", "phone")
        yield* pass("2 seconds")
        const desk = yield* other.track(1, "ada", "desk")
        yield* pass("2 seconds")
        const expected = [phone.tracked.ref, desk.tracked.ref]
        for (const node of [one, other]) assert.deepStrictEqual(refs(yield* node.run(Viewers.list(1))), expected)
        yield* Scope.close(phone.scope, Exit.void)
        yield* pass("2 seconds")
        assert.deepStrictEqual(yield* names(other), ["desk"])
        yield* Scope.close(desk.scope, Exit.void)
        yield* pass("2 seconds")
        for (const node of [one, other]) assert.deepStrictEqual(yield* node.run(Viewers.list(1)), new Map())
        yield* end(one, other)
      })
  )

  it.effect("of keys like __proto__ are entries like others", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      for (const key of ["__proto__", "constructor", "", "a:b", "\u0000"]) yield* one.track(1, key, `of ${key}`)
      yield* pass("2 seconds")
      const listed = yield* other.run(Viewers.list(1))
      assert.deepStrictEqual(
        [...listed.keys()].toSorted(),
        ["__proto__", "constructor", "", "a:b", "\u0000"].toSorted()
      )
      assert.strictEqual((yield* other.run(Viewers.getByKey(1, "__proto__")))[0]?.meta.name, "of __proto__")
      assert.strictEqual(({} as { readonly name?: string }).name, undefined)
      yield* end(one, other)
    })
  )

  it.effect("that were there before a node are sent to it in one message, to it alone", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const one = yield* startNode(bus)
      for (let n = 0; n < 1_000; n++) yield* one.track(1, `key ${n}`, `${n}`)
      yield* pass("10 seconds")
      bus.sent.length = 0
      const other = yield* startNode(bus)
      yield* settle
      assert.strictEqual((yield* names(other)).length, 1_000)
      assert.deepStrictEqual(sentBy(bus, one), ["State to one"])
      assert.strictEqual(told(other).length, 1)
      yield* end(one, other)
    })
  )

  it.effect("whose metas a node does not know are left out there, counted, and harm nobody", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const one = yield* startNode(bus)
      const scope = yield* Scope.make()
      const newer = yield* Layer.buildWithScope(
        Layer.fresh(Newer.layer.pipe(Layer.provide(Layer.fresh(bus.layer())))),
        scope
      )
      const track = (key: string, name: number | string) =>
        Newer.track(1, key, { name }).pipe(Scope.provide(scope), Effect.provideContext(newer))
      yield* track("ada", 1)
      const known = yield* track("grace", "Grace")
      yield* pass("2 seconds")
      assert.deepStrictEqual(yield* names(one), ["Grace"])
      assert.strictEqual(yield* undecodable, 1)
      yield* track("alan", "Alan")
      yield* known.untrack
      yield* pass("2 seconds")
      assert.deepStrictEqual(yield* names(one), ["Alan"])
      assert.strictEqual(yield* undecodable, 1)
      yield* Scope.close(scope, Exit.void)
      yield* pass("2 seconds")
      assert.deepStrictEqual(yield* names(one), [])
      assert.deepStrictEqual(one.folds.get(1)?.wrong, [])
      yield* end(one)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
  )
})

describe("an update", () => {
  it.effect("is one diff, with the old entry in leaves and the new one in joins, which knows the ref before", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      const { tracked } = yield* one.track(1, "ada", "Ada")
      yield* pass("2 seconds")
      const first = tracked.ref
      for (const node of [one, other]) told(node)
      yield* tracked.update(({ name }) => ({ name: `${name}!` }))
      yield* settle
      for (const node of [one, other]) {
        assert.deepStrictEqual(told(node), [{ joins: [tracked.ref], leaves: [first] }])
        const [entry] = yield* node.run(Viewers.getByKey(1, "ada"))
        assert.deepStrictEqual([entry?.ref, entry?.previousRef, entry?.meta.name], [tracked.ref, first, "Ada!"])
      }
      yield* end(one, other)
    })
  )

  it.effect("made many times in a period reaches other nodes as one", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      const { tracked } = yield* one.track(1, "ada", "Ada")
      yield* settle
      const first = tracked.ref
      told(other)
      for (let n = 0; n < 10; n++) yield* tracked.update({ name: `${n}` })
      const brief = yield* one.track(1, "grace", "Grace")
      yield* Scope.close(brief.scope, Exit.void)
      yield* pass("1500 millis")
      assert.deepStrictEqual(told(other), [{ joins: [tracked.ref], leaves: [first] }])
      yield* end(one, other)
    })
  )
})

describe("a node", () => {
  it.effect(
    "tells of its first change at once, of more at the end of the period, and of nothing every 15 seconds",
    () =>
      Effect.gen(function* () {
        const bus = makeBus()
        const [one, other] = yield* pair(bus)
        yield* pass("15 seconds")
        bus.sent.length = 0
        yield* one.track(1, "a", "a")
        yield* settle
        assert.deepStrictEqual(sentBy(bus, one), ["Delta"])
        for (const key of ["b", "c", "d"]) yield* one.track(1, key, key)
        yield* pass("1499 millis")
        assert.deepStrictEqual(sentBy(bus, one), [])
        yield* pass("1 millis")
        assert.deepStrictEqual(sentBy(bus, one), ["Delta"])
        yield* pass("14999 millis")
        assert.deepStrictEqual(sentBy(bus, one), [])
        yield* pass("1 millis")
        assert.deepStrictEqual(sentBy(bus, one), ["Beat"])
        assert.deepStrictEqual(yield* names(other), ["a", "b", "c", "d"])
        yield* end(one, other)
      })
  )

  it.effect(
    "that is not heard for 30 seconds is hidden, and comes back with the same refs and without a transfer",
    () =>
      Effect.gen(function* () {
        const bus = makeBus()
        bus.tellsGaps = false
        const [one, other] = yield* pair(bus)
        const { tracked } = yield* one.track(1, "ada", "Ada")
        yield* pass("2 seconds")
        told(other)
        bus.cut(one.id, other.id)
        yield* pass("27900 millis")
        assert.deepStrictEqual(yield* names(other), ["Ada"])
        yield* pass("200 millis")
        assert.deepStrictEqual(yield* names(other), [])
        assert.deepStrictEqual(told(other), [{ joins: [], leaves: [tracked.ref] }])
        assert.deepStrictEqual(
          yield* other.run(Viewers.peers).pipe(Effect.map((all) => all.map(({ status }) => status))),
          ["down"]
        )
        assert.deepStrictEqual(yield* names(one), ["Ada"], "its own are not hidden")
        bus.mend(one.id, other.id)
        bus.sent.length = 0
        yield* pass("15 seconds")
        assert.deepStrictEqual(yield* names(other), ["Ada"])
        assert.deepStrictEqual(told(other), [{ joins: [tracked.ref], leaves: [] }])
        assert.deepStrictEqual(sentBy(bus, one), ["Beat"])
        yield* end(one, other)
      })
  )

  it.effect("that comes back with changes is shown as it is now, in one diff", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      bus.tellsGaps = false
      const [one, other] = yield* pair(bus)
      const ada = yield* one.track(1, "ada", "Ada")
      const alan = yield* one.track(1, "alan", "Alan")
      yield* pass("2 seconds")
      bus.cut(one.id, other.id)
      yield* pass("40 seconds")
      told(other)
      yield* Scope.close(ada.scope, Exit.void)
      const grace = yield* one.track(1, "grace", "Grace")
      yield* pass("20 seconds")
      bus.mend(one.id, other.id)
      yield* pass("15 seconds")
      assert.deepStrictEqual(yield* names(other), ["Alan", "Grace"])
      const [diff, ...more] = told(other)
      assert.deepStrictEqual(more, [])
      assert.deepStrictEqual(diff?.joins.toSorted(), [alan.tracked.ref, grace.tracked.ref].toSorted())
      assert.deepStrictEqual(diff?.leaves, [])
      yield* end(one, other)
    })
  )

  it.effect("that is not heard for 20 minutes is forgotten", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      yield* one.track(1, "ada", "Ada")
      yield* pass("2 seconds")
      yield* one.crash
      yield* pass("19 minutes")
      assert.strictEqual((yield* other.run(Viewers.peers)).length, 1)
      yield* pass("1 minutes")
      assert.deepStrictEqual(yield* other.run(Viewers.peers), [])
      assert.deepStrictEqual(yield* names(other), [])
      yield* end(other)
    })
  )

  it.effect("that stops in order has its people leave at once, as their scopes have closed", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      for (const key of ["a", "b", "c"]) yield* one.track(1, key, key)
      yield* pass("2 seconds")
      yield* one.stop
      yield* settle
      assert.deepStrictEqual(yield* names(other), [])
      yield* end(other)
    })
  )

  for (const leaveOnShutdown of [false, true]) {
    it.effect(
      `that stops while people are tracked ${leaveOnShutdown ? "says that they leave" : "leaves them for the down period"}`,
      () =>
        Effect.gen(function* () {
          const bus = makeBus()
          const [one, other] = yield* pair(bus, { leaveOnShutdown })
          yield* one.track(1, "ada", "Ada")
          yield* pass("2 seconds")
          one.here.length = 0
          yield* one.stop
          yield* settle
          assert.deepStrictEqual(yield* names(other), leaveOnShutdown ? [] : ["Ada"])
          yield* pass("31 seconds")
          assert.deepStrictEqual(yield* names(other), [])
          yield* end(other)
        })
    )
  }

  it.effect("that has said farewell is not brought back by what arrives late", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus, { leaveOnShutdown: true })
      yield* one.track(1, "ada", "Ada")
      yield* pass("2 seconds")
      one.here.length = 0
      yield* one.stop
      yield* settle
      told(other)
      bus.replay(() => true)
      yield* settle
      assert.deepStrictEqual(yield* names(other), [])
      yield* pass("2 minutes")
      assert.deepStrictEqual(told(other), [])
      yield* end(other)
    })
  )

  it.effect("that comes back by a change is shown with that change", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      bus.tellsGaps = false
      const [one, other] = yield* pair(bus)
      const ada = yield* one.track(1, "ada", "Ada")
      const alan = yield* one.track(1, "alan", "Alan")
      yield* pass("2 seconds")
      bus.cut(one.id, other.id)
      yield* pass("40 seconds")
      told(other)
      bus.mend(one.id, other.id)
      yield* Scope.close(ada.scope, Exit.void)
      yield* settle
      assert.deepStrictEqual(told(other), [{ joins: [alan.tracked.ref], leaves: [] }])
      assert.deepStrictEqual(yield* names(other), ["Alan"])
      yield* end(one, other)
    })
  )

  it.effect("that is down is not brought back by what it said before", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      const ada = yield* one.track(1, "ada", "Ada")
      yield* pass("2 seconds")
      yield* ada.tracked.update({ name: "Countess" })
      yield* pass("2 seconds")
      yield* Scope.close(ada.scope, Exit.void)
      yield* one.track(1, "grace", "Grace")
      yield* pass("2 seconds")
      bus.cut(one.id, other.id)
      yield* pass("31 seconds")
      told(other)
      bus.mend(one.id, other.id)
      bus.unplug(one.id)
      // It is known to be at 3.
      bus.replay(({ clock }) => clock === 0 || clock === 1 || clock === 2)
      yield* settle
      assert.deepStrictEqual(told(other), [])
      yield* end(one, other)
    })
  )

  it.effect("whose presence has started anew is not what it was before because of what arrives late", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      yield* one.track(1, "ada", "Ada")
      yield* pass("2 seconds")
      yield* one.restart
      yield* one.track(1, "grace", "Grace")
      yield* pass("2 seconds")
      told(other)
      bus.replay(() => true)
      yield* settle
      assert.deepStrictEqual(yield* names(other), ["Grace"])
      assert.deepStrictEqual(told(other), [])
      yield* end(one, other)
    })
  )

  it.effect("whose presence starts anew replaces what it told before, when it has something to tell", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      yield* one.track(1, "ada", "Ada")
      yield* pass("2 seconds")
      const [before] = yield* other.run(Viewers.peers)
      told(other)
      yield* one.restart
      yield* settle
      const [after] = yield* other.run(Viewers.peers)
      assert.isAbove(after?.incarnation ?? 0, before?.incarnation ?? 0)
      assert.deepStrictEqual(yield* names(other), [])
      yield* one.track(1, "grace", "Grace")
      yield* pass("2 seconds")
      assert.deepStrictEqual(yield* names(other), ["Grace"])
      yield* end(one, other)
    })
  )

  it.effect("that stood still does not take the others for down because of that", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const clock = yield* Clock.clockWith(Effect.succeed)
      let stood = 0
      const monotonicTimeNanosUnsafe = () => clock.monotonicTimeNanosUnsafe() + BigInt(stood) * 1_000_000n
      const frozen = { ...clock, monotonicTimeNanosUnsafe, monotonicTimeNanos: Effect.sync(monotonicTimeNanosUnsafe) }
      const one = yield* startNode(bus)
      const other = yield* startNode(bus).pipe(Effect.provideService(Clock.Clock, frozen))
      yield* one.track(1, "ada", "Ada")
      yield* pass("2 seconds")
      told(other)
      stood = 60_000
      yield* pass("30 seconds")
      assert.deepStrictEqual(told(other), [])
      yield* one.crash
      yield* pass("31 seconds")
      assert.deepStrictEqual(yield* names(other), [], "but who is down then is down")
      yield* end(other)
    })
  )
})
