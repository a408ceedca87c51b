// Presence on many nodes when messages between them are lost.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { end, makeBus, names, pair, pass, sentBy, settle, startNode } from "./fixtures/PresenceNodes.ts"

describe("who misses a message", () => {
  it.effect("asks the owner, and nobody else, for the whole", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      bus.tellsGaps = false
      const [one, other] = yield* pair(bus)
      const third = yield* startNode(bus)
      yield* pass("3 seconds")
      bus.faults.drop = 100
      yield* one.track(1, "a", "a")
      yield* pass("1500 millis")
      bus.faults.drop = 0
      assert.deepStrictEqual(yield* names(other), [])
      bus.sent.length = 0
      yield* one.track(1, "b", "b")
      yield* settle
      for (const node of [other, third]) assert.deepStrictEqual(yield* names(node), ["a", "b"])
      assert.deepStrictEqual(
        bus.sent.filter(({ from }) => from !== one.id).map(({ to }) => to),
        [one.id, one.id]
      )
      yield* end(one, other, third)
    })
  )

  it.effect("sees it by the next heartbeat where no other change follows", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      bus.tellsGaps = false
      const [one, other] = yield* pair(bus)
      bus.faults.drop = 100
      yield* one.track(1, "a", "a")
      yield* settle
      bus.faults.drop = 0
      yield* pass("15 seconds")
      assert.deepStrictEqual(yield* names(other), ["a"])
      yield* end(one, other)
    })
  )

  it.effect("sees it at once where the adapter tells of a gap, and who missed nothing is sent nothing again", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      const [one, other] = yield* pair(bus)
      bus.cut(one.id, other.id)
      yield* one.track(1, "a", "a")
      yield* pass("2 seconds")
      bus.sent.length = 0
      bus.mend(one.id, other.id)
      yield* settle
      assert.deepStrictEqual(yield* names(other), ["a"])
      assert.deepStrictEqual(sentBy(bus, one), ["Ask", "State to one"])
      yield* pass("2 seconds")
      bus.cut(one.id, other.id)
      bus.sent.length = 0
      bus.mend(one.id, other.id)
      yield* settle
      assert.deepStrictEqual(sentBy(bus, one), ["Ask", "Beat to one"])
      yield* end(one, other)
    })
  )

  it.effect("gets what is much in parts, and the whole of it whichever of them is lost, doubled or late", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      bus.tellsGaps = false
      const one = yield* startNode(bus)
      for (let n = 0; n < 3_500; n++) yield* one.track(1, `key ${n}`, `${n}`)
      yield* pass("3 seconds")
      bus.sent.length = 0
      const other = yield* startNode(bus)
      yield* settle
      assert.deepStrictEqual(
        sentBy(bus, one),
        Array.from({ length: 4 }, () => "State to one")
      )
      assert.lengthOf(yield* names(other), 3_500)
      for (const faults of [
        { drop: 40, duplicate: 0, hold: 0 },
        { drop: 0, duplicate: 60, hold: 0 },
        { drop: 0, duplicate: 0, hold: 40 }
      ]) {
        bus.faults = faults
        const late = yield* startNode(bus)
        yield* pass("5 seconds")
        bus.faults = { drop: 0, duplicate: 0, hold: 0 }
        bus.release()
        yield* pass("16 seconds")
        assert.deepStrictEqual(yield* names(late), yield* names(one), JSON.stringify(faults))
        assert.deepStrictEqual(late.folds.get(1)?.wrong, [])
        yield* end(late)
      }
      yield* end(one, other)
    })
  )

  it.effect("asks again until it is answered", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      bus.tellsGaps = false
      const [one, other] = yield* pair(bus)
      bus.faults.drop = 100
      yield* one.track(1, "a", "a")
      yield* pass("2 seconds")
      bus.faults.drop = 0
      yield* one.track(1, "b", "b")
      bus.sent.length = 0
      // It hears of the second one, and every question or answer is lost for a while; what is old arrives again.
      yield* Effect.yieldNow
      bus.faults.drop = 100
      yield* settle
      bus.replay(({ clock }) => clock === 0)
      yield* pass("10 seconds")
      bus.faults.drop = 0
      yield* pass("1500 millis")
      assert.deepStrictEqual(yield* names(other), ["a", "b"])
      yield* end(one, other)
    })
  )

  it.effect("asks less and less often where no answer helps", () =>
    Effect.gen(function* () {
      const bus = makeBus()
      bus.tellsGaps = false
      const one = yield* startNode(bus)
      yield* one.track(1, "a", "a")
      yield* pass("2 seconds")
      bus.refused = "State"
      const other = yield* startNode(bus)
      yield* pass("16 seconds")
      bus.sent.length = 0
      for (let seconds = 0; seconds < 60; seconds++) yield* pass("1 second")
      const asks = sentBy(bus, other).filter((kind) => kind === "Ask to one")
      assert.isAtMost(asks.length, 6)
      assert.isAtLeast(asks.length, 3)
      bus.refused = undefined
      yield* pass("16 seconds")
      assert.deepStrictEqual(yield* names(other), ["a"])
      yield* end(one, other)
    })
  )
})
