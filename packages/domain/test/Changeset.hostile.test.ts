import { Changeset, type ValidationError } from "@coppice/domain"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Redacted, Schema } from "effect"

const NUL = "must not contain the NUL character"
const surrogate = "must be well-formed Unicode, without half of a surrogate pair"

const castFields = <S extends Schema.ConstraintDecoder<unknown>>(schema: S, input: unknown) =>
  Effect.map(Effect.flip(Changeset.cast(schema, input)), (error: ValidationError.ValidationError) => error.fields)

const Name = Schema.Struct({ name: Schema.String })

const nested = (levels: number): unknown => {
  let value: unknown = { children: [] }
  for (let level = 0; level < levels; level++) value = { children: [value] }
  return value
}

describe("Changeset.cast of hostile input", () => {
  for (const [what, input] of [
    ["null", null],
    ["undefined", undefined],
    ["a string", '{"name":"x"}'],
    ["a number", 7],
    ["an array", [{ name: "x" }]],
    ["a function", () => ({ name: "x" })]
  ] as const) {
    it.effect(`refuses ${what} in the place of an object`, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* castFields(Name, input), { $: ["must be an object"] })
      })
    )
  }

  it.effect("does not let __proto__ set fields or prototypes", () =>
    Effect.gen(function* () {
      const input: unknown = JSON.parse('{"name":"x","__proto__":{"admin":true},"constructor":{"prototype":{"y":1}}}')
      const value = yield* Changeset.cast(Name, input)
      assert.deepStrictEqual(Object.keys(value), ["name"])
      assert.strictEqual(Object.getPrototypeOf(value), Object.prototype)
      assert.isUndefined(Reflect.get({}, "admin"))
    })
  )

  it.effect("files errors under __proto__ as under any other key", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ counts: Schema.Record(Schema.String, Schema.Int) })
      const error = yield* Effect.flip(Changeset.cast(schema, JSON.parse('{"counts":{"__proto__":"x"}}')))
      assert.deepStrictEqual(error.fields, { "counts.__proto__": ["must be a number"] })

      const root = yield* Effect.flip(
        Changeset.cast(Schema.Record(Schema.String, Schema.Int), JSON.parse('{"__proto__":"x"}'))
      )
      assert.deepStrictEqual(Object.entries(root.fields), [["__proto__", ["must be a number"]]])
      assert.strictEqual(Object.getPrototypeOf(root.fields), Object.prototype)
      assert.include(JSON.stringify(root), '"__proto__":["must be a number"]')
    })
  )

  it.effect("refuses NUL and halves of surrogate pairs in any string, nested or a key", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({
        name: Schema.String,
        tags: Schema.Array(Schema.Struct({ label: Schema.String })),
        extra: Schema.Record(Schema.String, Schema.String),
        json: Schema.Json,
        secret: Schema.RedactedFromValue(Schema.String),
        note: Schema.OptionFromNullOr(Schema.String)
      })
      const good = { name: "ok 😀", tags: [], extra: {}, json: null, secret: "s", note: null }
      assert.deepStrictEqual((yield* Changeset.cast(schema, good)).name, "ok 😀")
      const fields = yield* castFields(schema, {
        name: "a\u0000b",
        tags: [{ label: "fine" }, { label: "\ud83d" }],
        extra: { "k\u0000": "v" },
        json: { deep: ["\udc00"] },
        secret: "\u0000",
        note: "\u0000"
      })
      assert.deepStrictEqual(fields, {
        name: [NUL],
        "tags[1].label": [surrogate],
        'extra["k\\u0000"]': [NUL],
        "json.deep[0]": [surrogate],
        secret: [NUL],
        note: [NUL]
      })
    })
  )

  it.effect("refuses a NUL that only decoding brings to light", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ query: Schema.StringFromUriComponent })
      assert.deepStrictEqual(yield* castFields(schema, { query: "a%00b" }), { query: [NUL] })
    })
  )

  it.effect("reports text that cannot be stored together with the other errors", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ name: Schema.String, age: Schema.Finite })
      assert.deepStrictEqual(yield* castFields(schema, { name: "\u0000", age: "x" }), {
        age: ["must be a number"],
        name: [NUL]
      })
    })
  )

  it.effect("does not mind what stands under keys that are left out anyway", () =>
    Effect.gen(function* () {
      const input = { name: "x", ignored: "\u0000", deep: nested(5000) }
      assert.deepStrictEqual(yield* Changeset.cast(Name, input), { name: "x" })
      assert.deepStrictEqual(yield* castFields(Name, { ...input, name: 1 }), { name: ["must be a string"] })
    })
  )

  it.effect("sees strings inside the values that Effect wraps", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({
        option: Schema.Option(Schema.String),
        redacted: Schema.Redacted(Schema.String),
        map: Schema.ReadonlyMap(Schema.String, Schema.String),
        set: Schema.ReadonlySet(Schema.String)
      })
      const fields = yield* castFields(schema, {
        option: Option.some("\u0000"),
        redacted: Redacted.make("\u0000"),
        map: new Map([["k", "\u0000"]]),
        set: new Set(["\u0000"])
      })
      assert.deepStrictEqual(fields, { option: [NUL], redacted: [NUL], map: [NUL], set: [NUL] })
    })
  )

  interface Tree {
    readonly children: ReadonlyArray<Tree>
  }
  const Tree: Schema.Codec<Tree> = Schema.Struct({ children: Schema.Array(Schema.suspend(() => Tree)) })

  it.effect("refuses input nested deeper than a recursive schema can be decoded, without a stack overflow", () =>
    Effect.gen(function* () {
      assert.isDefined(yield* Changeset.cast(Tree, nested(60)))
      for (const levels of [65, 10_000, 200_000]) {
        assert.deepStrictEqual(yield* castFields(Tree, nested(levels)), { $: ["is nested deeper than 128 levels"] })
      }
    })
  )

  it.effect("keeps at most 100 messages and says how many it left out", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ ids: Schema.Array(Schema.Int) })
      const fields = yield* castFields(schema, { ids: Array.from({ length: 5000 }, () => "x") })
      assert.strictEqual(Object.keys(fields).length, 101)
      assert.deepStrictEqual(fields["$"], ["has 4900 more errors"])
    })
  )

  it.effect("stops looking for text that cannot be stored after 100 errors", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ words: Schema.Array(Schema.String) })
      const fields = yield* castFields(schema, { words: Array.from({ length: 100_000 }, () => "\u0000") })
      assert.strictEqual(Object.keys(fields).length, 100)
    })
  )

  it.effect("takes long flat input in its stride", () =>
    Effect.gen(function* () {
      const words = Array.from({ length: 200_000 }, (_, index) => `word ${index}`)
      const value = yield* Changeset.cast(Schema.Struct({ words: Schema.Array(Schema.String) }), { words })
      assert.strictEqual(value.words.length, 200_000)
    })
  )

  it.effect("ends on input that contains itself", () =>
    Effect.gen(function* () {
      const cyclic: Record<string, unknown> = { name: "x", age: "y" }
      cyclic["self"] = cyclic
      assert.deepStrictEqual(
        yield* castFields(Schema.Struct({ name: Schema.String, age: Schema.Int, self: Schema.Unknown }), cyclic),
        { age: ["must be a number"] }
      )
    })
  )
})
