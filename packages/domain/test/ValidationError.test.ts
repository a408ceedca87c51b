import { ValidationError } from "@coppice/domain"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"

const error = ValidationError.make([
  { path: ["name"], message: "is required" },
  { path: ["tags", 0, "label"], message: "must be a string" },
  { path: [], message: "has an unknown version" }
])

describe("ValidationError", () => {
  it("has one JSON form, which decodes to the same error", () => {
    const json = Schema.encodeSync(ValidationError.ValidationError)(error)
    assert.deepStrictEqual(JSON.parse(JSON.stringify(json)), {
      _tag: "ValidationError",
      fields: { name: ["is required"], "tags[0].label": ["must be a string"], $: ["has an unknown version"] }
    })
    const decoded = Schema.decodeSync(ValidationError.ValidationError)(json)
    assert.instanceOf(decoded, ValidationError.ValidationError)
    assert.deepStrictEqual(decoded.fields, error.fields)
  })

  it("says in one sentence what is wrong and what to do", () => {
    assert.strictEqual(
      error.message,
      "Invalid input: name is required; tags[0].label must be a string; it has an unknown version. "
        + "Correct it and send it again."
    )
  })

  it.effect("is caught by its tag", () =>
    Effect.gen(function* () {
      const fields = yield* Effect.fail(ValidationError.forField("name", "is taken")).pipe(
        Effect.catchTag("ValidationError", ({ fields }) => Effect.succeed(fields))
      )
      assert.deepStrictEqual(fields, { name: ["is taken"] })
    })
  )

  it("says the same thing about a field only once", () => {
    const same = { path: ["name"], message: "is required" }
    assert.deepStrictEqual(ValidationError.make([same, same, { path: ["name"], message: "is odd" }]).fields, {
      name: ["is required", "is odd"]
    })
  })

  it("combines the errors of several inputs", () => {
    const combined = ValidationError.combine([
      ValidationError.forField("id", "must be a number"),
      error,
      ValidationError.forField("name", "is taken")
    ])
    assert.deepStrictEqual(combined.fields, {
      id: ["must be a number"],
      name: ["is required", "is taken"],
      "tags[0].label": ["must be a string"],
      $: ["has an unknown version"]
    })
  })

  it("never gives two places the same name", () => {
    const paths: ReadonlyArray<ReadonlyArray<PropertyKey>> = [
      [],
      ["$"],
      ["a", "b"],
      ["a.b"],
      ["a[0]"],
      ["a", 0],
      ["a", "b c"],
      ["a b", "c"],
      ['a"]["b'],
      ["a", '"]["b'],
      [""],
      ["__proto__"],
      ["naïve"]
    ]
    const names = paths.map(ValidationError.fieldName)
    assert.strictEqual(new Set(names).size, paths.length)
    assert.deepStrictEqual(names.slice(0, 6), ["$", '["$"]', "a.b", '["a.b"]', '["a[0]"]', "a[0]"])
  })
})
