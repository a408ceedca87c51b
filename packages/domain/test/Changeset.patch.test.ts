import { Changeset, Transition, type ValidationError } from "@coppice/domain"
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Option, Schema } from "effect"
import { Model } from "effect/schema"

const TrailStatus = Transition.make({
  draft: ["active"],
  active: ["paused", "archived"],
  paused: ["active", "archived"],
  archived: []
})

class Trail extends Model.Class<Trail>("Trail")({
  id: Model.GeneratedByDb(Schema.Int),
  name: Schema.String.check(Schema.isMinLength(3)),
  note: Model.FieldOption(Schema.String),
  tags: Schema.Array(Schema.String),
  startsAt: Schema.DateTimeUtcFromString,
  status: TrailStatus.schema,
  version: Model.GeneratedByDb(Schema.Int)
}) {
  get title() {
    return `${this.name} (${this.status})`
  }
}

const trail = new Trail({
  id: 1,
  name: "Ridge",
  note: Option.some("steep"),
  tags: ["alps"],
  startsAt: DateTime.makeUnsafe("2026-05-01T00:00:00Z"),
  status: "active",
  version: 3
})

const patch = (input: unknown) =>
  Changeset.patch(Trail.jsonUpdate, trail, input, { transitions: { status: TrailStatus } })

const fieldsOf = <A, R>(effect: Effect.Effect<A, ValidationError.ValidationError, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.fields)

describe("Changeset.patch", () => {
  it.effect("changes only what the input has and the row has not", () =>
    Effect.gen(function* () {
      const changeset = yield* patch({ name: "Ridge", tags: ["alps", "long"] })
      assert.strictEqual(changeset.data, trail)
      assert.deepStrictEqual(changeset.changes, { tags: ["alps", "long"] })
      assert.isFalse(Changeset.isUnchanged(changeset))
    })
  )

  it.effect("compares decoded values by what they mean", () =>
    Effect.gen(function* () {
      const changeset = yield* patch({ tags: ["alps"], startsAt: "2026-05-01T02:00:00+02:00", note: "steep" })
      assert.deepStrictEqual(changeset.changes, {})
      assert.isTrue(Changeset.isUnchanged(changeset))
    })
  )

  it.effect("does not clear a field that the input leaves out, and clears one that it sets to null", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual((yield* patch({ name: "Valley" })).changes, { name: "Valley" })
      assert.deepStrictEqual((yield* patch({ note: null })).changes, { note: Option.none() })
    })
  )

  it.effect("takes no default for a field that the input leaves out", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({
        name: Schema.String,
        limit: Schema.Int.pipe(Schema.withDecodingDefaultKey(Effect.succeed(10)))
      })
      const changeset = yield* Changeset.patch(schema, { name: "a", limit: 5 }, { name: "b" })
      assert.deepStrictEqual(changeset.changes, { name: "b" })
    })
  )

  it.effect("reports every error of the fields that are given", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* fieldsOf(patch({ name: "x", tags: "alps" })), {
        name: ["must have a length of at least 3"],
        tags: ["must be an array"]
      })
      assert.deepStrictEqual(yield* fieldsOf(patch([])), { $: ["must be an object"] })
    })
  )

  it.effect("cannot set what is not a field of the variant", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual((yield* patch({ id: 7, version: 9, name: "Valley" })).changes, { name: "Valley" })
    })
  )

  it.effect("ignores what the input inherits", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual((yield* patch(Object.create({ name: "Inherited" }))).changes, {})
    })
  )

  it.effect("lets a status change only along its declared transitions", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual((yield* patch({ status: "paused" })).changes, { status: "paused" })
      assert.deepStrictEqual((yield* patch({ status: "active" })).changes, {})
      assert.deepStrictEqual(yield* fieldsOf(patch({ status: "draft" })), {
        status: ['cannot go from "active" to "draft"']
      })
      assert.deepStrictEqual(yield* fieldsOf(patch({ status: "lost" })), {
        status: ['must be one of "draft", "active", "paused", "archived"']
      })
    })
  )

  const Period = Schema.Struct({ from: Schema.Int, to: Schema.Int, status: TrailStatus.schema }).check(
    Schema.makeFilter(({ from, to }) => (from <= to ? undefined : { path: ["to"], issue: "must not be before from" }))
  )
  const period = { id: 1, from: 10, to: 20, status: "active" } as const

  it.effect("checks the struct as a whole on the row as it would become", () =>
    Effect.gen(function* () {
      const patchPeriod = (input: unknown) =>
        Changeset.patch(Period, period, input, { transitions: { status: TrailStatus } })
      assert.deepStrictEqual((yield* patchPeriod({ from: 15 })).changes, { from: 15 })
      assert.deepStrictEqual(yield* fieldsOf(patchPeriod({ to: 5, status: "draft" })), {
        status: ['cannot go from "active" to "draft"'],
        to: ["must not be before from"]
      })
    })
  )

  it.effect("does not look again at fields that do not change", () =>
    Effect.gen(function* () {
      const legacy = { name: "", note: "" }
      const schema = Schema.Struct({ name: Schema.String.check(Schema.isNonEmpty()), note: Schema.String })
      assert.deepStrictEqual((yield* Changeset.patch(schema, legacy, { note: "x" })).changes, { note: "x" })
    })
  )
})

describe("Changeset.change", () => {
  it("keeps only the values that differ", () => {
    const changeset = Changeset.change(trail, { name: "Ridge", tags: ["alps"], status: "paused" as const })
    assert.deepStrictEqual(changeset.changes, { status: "paused" })
  })
})

describe("Changeset.apply", () => {
  it("gives the row with the changes, of the same class, and leaves the old one alone", () => {
    const applied = Changeset.apply(Changeset.change(trail, { name: "Valley" }))
    assert.instanceOf(applied, Trail)
    assert.strictEqual(applied.title, "Valley (active)")
    assert.strictEqual(applied.version, 3)
    assert.strictEqual(trail.name, "Ridge")
  })
})
