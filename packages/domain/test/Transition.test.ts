import { Transition } from "@coppice/domain"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"

const TrailStatus = Transition.make({
  draft: ["active"],
  active: ["paused", "archived", "paused"],
  paused: ["active", "archived"],
  archived: []
})

describe("Transition", () => {
  it("is the schema of the status field", () => {
    assert.isTrue(Schema.is(TrailStatus.schema)("paused"))
    assert.isFalse(Schema.is(TrailStatus.schema)("lost"))
    assert.deepStrictEqual(TrailStatus.states, ["draft", "active", "paused", "archived"])
  })

  it("knows what may follow a state and what may come before it", () => {
    assert.deepStrictEqual(Transition.next(TrailStatus, "active"), ["paused", "archived"])
    assert.deepStrictEqual(Transition.next(TrailStatus, "archived"), [])
    assert.deepStrictEqual(Transition.previous(TrailStatus, "archived"), ["active", "paused"])
    assert.deepStrictEqual(Transition.previous(TrailStatus, "draft"), [])
  })

  it("allows exactly the declared steps", () => {
    const allowed = TrailStatus.states.flatMap((from) =>
      TrailStatus.states.filter((to) => Transition.allows(TrailStatus, from, to)).map((to) => `${from}>${to}`)
    )
    assert.deepStrictEqual(allowed, [
      "draft>active",
      "active>paused",
      "active>archived",
      "paused>active",
      "paused>archived"
    ])
  })

  it("lets a state follow itself only when it says so", () => {
    assert.isFalse(Transition.allows(TrailStatus, "active", "active"))
    assert.isTrue(Transition.allows(Transition.make({ open: ["open"] }), "open", "open"))
  })

  it("knows no step from or to a state that is not declared, whatever it is called", () => {
    const untyped: Transition.Transition<string> = TrailStatus
    for (const name of ["__proto__", "constructor", "toString", ""]) {
      assert.isFalse(Transition.allows(untyped, name, "active"))
      assert.isFalse(Transition.allows(untyped, "active", name))
    }
  })

  it.effect("fails with where it is, where it should go, and where it may", () =>
    Effect.gen(function* () {
      yield* Transition.check(TrailStatus, "draft", "active")
      const error = yield* Effect.flip(Transition.check(TrailStatus, "active", "draft"))
      assert.deepStrictEqual(
        { ...error },
        { _tag: "InvalidTransition", from: "active", to: "draft", allowed: ["paused", "archived"] }
      )
      assert.strictEqual(
        error.message,
        'A status cannot go from "active" to "draft". It may go to: "paused", "archived".'
      )
      const final = yield* Effect.flip(Transition.check(TrailStatus, "archived", "active"))
      assert.strictEqual(final.message, 'A status cannot go from "archived" to "active". "archived" is final.')
    })
  )

  it.effect("can be shown as an error of the status field", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Transition.check(TrailStatus, "active", "draft"))
      assert.deepStrictEqual(error.toValidationError("status").fields, {
        status: ['cannot go from "active" to "draft"']
      })
    })
  )
})
