import { Changeset, Transition, type ValidationError } from "@coppice/domain"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Option, Schema, SchemaGetter } from "effect"
import { Model } from "effect/schema"
import { SqlError } from "effect/sql"

const TrailStatus = Transition.make({
  draft: ["active"],
  active: ["paused", "archived"],
  paused: ["active", "archived"],
  archived: []
})

class Trail extends Model.Class<Trail>("Trail")({
  id: Model.GeneratedByDb(Schema.Int),
  name: Schema.String.check(Schema.isMinLength(3), Schema.isTrimmed()),
  url: Schema.URLFromString,
  status: TrailStatus.schema,
  note: Model.FieldOption(Schema.String),
  version: Model.GeneratedByDb(Schema.Int)
}) {
  get title() {
    return `${this.name} (${this.status})`
  }
}

const fieldsOf = <A>(effect: Effect.Effect<A, ValidationError.ValidationError>) =>
  Effect.map(Effect.flip(effect), (error) => error.fields)

const castFields = <S extends Schema.ConstraintDecoder<unknown>>(schema: S, input: unknown) =>
  fieldsOf(Changeset.cast(schema, input))

describe("Changeset.cast", () => {
  it.effect("gives the decoded value of a model variant", () =>
    Effect.gen(function* () {
      const input = { name: "Ridge", url: "https://example.org/", status: "draft" }
      const trail = yield* Changeset.cast(Trail.jsonCreate, input)
      assert.deepStrictEqual(trail, {
        name: "Ridge",
        url: new URL("https://example.org/"),
        status: "draft",
        note: Option.none()
      })
    })
  )

  it.effect("reports every error of every field at once", () =>
    Effect.gen(function* () {
      const fields = yield* castFields(Trail.jsonCreate, { name: "x", url: "nowhere", status: "lost", note: 3 })
      assert.deepStrictEqual(fields, {
        name: ["must have a length of at least 3"],
        url: ["must be a valid URL string"],
        status: ['must be one of "draft", "active", "paused", "archived"'],
        note: ["must be a string or null"]
      })
    })
  )

  it.effect("reports all failed checks of one field", () =>
    Effect.gen(function* () {
      const fields = yield* castFields(Trail.jsonCreate, { name: " x", url: "https://example.org", status: "draft" })
      assert.deepStrictEqual(fields, {
        name: ["must have a length of at least 3", "must have no leading or trailing whitespace"]
      })
    })
  )

  it.effect("reports missing fields as required", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* castFields(Trail.jsonCreate, {}), {
        name: ["is required"],
        url: ["is required"],
        status: ["is required"]
      })
    })
  )

  it.effect("names nested fields, items and keys that are not plain names", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({
        address: Schema.Struct({ city: Schema.String }),
        items: Schema.Array(Schema.Struct({ "unit price": Schema.Finite, url: Schema.String })),
        labels: Schema.Record(Schema.String, Schema.String)
      })
      const fields = yield* castFields(schema, {
        address: { city: 1 },
        items: [{ "unit price": 1, url: "a" }, { "unit price": "1" }],
        labels: { "a.b": 1, ok: "x", $: 2 }
      })
      assert.deepStrictEqual(fields, {
        "address.city": ["must be a string"],
        'items[1]["unit price"]': ["must be a number"],
        "items[1].url": ["is required"],
        'labels["a.b"]': ["must be a string"],
        'labels["$"]': ["must be a string"]
      })
    })
  )

  it.effect("takes a message annotation word for word, and a custom check's own issue", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({
        name: Schema.String.check(Schema.isMinLength(3, { message: "Expected at least three letters, please" })),
        age: Schema.Finite.check(Schema.makeFilter((age) => (age < 18 ? "is too young" : undefined))),
        email: Schema.String.annotateKey({ messageMissingKey: "we need it to reach you" })
      }).check(Schema.makeFilter(({ name, age }) => (name.length === age ? undefined : { path: ["age"], issue: "!" })))
      assert.deepStrictEqual(yield* castFields(schema, { name: "x", age: 3 }), {
        name: ["Expected at least three letters, please"],
        age: ["is too young"],
        email: ["we need it to reach you"]
      })
      assert.deepStrictEqual(yield* castFields(schema, { name: "abc", age: 30, email: "" }), { age: ["!"] })
    })
  )

  it.effect("speaks of unions by what they allow", () =>
    Effect.gen(function* () {
      const shape = Schema.Union([
        Schema.Struct({ kind: Schema.Literal("circle"), radius: Schema.Finite }),
        Schema.Struct({ kind: Schema.Literal("square"), side: Schema.Finite })
      ])
      const schema = Schema.Struct({ shape, size: Schema.Union([Schema.Int, Schema.Literal("auto")]) })
      assert.deepStrictEqual(yield* castFields(schema, { shape: { kind: "blob" }, size: false }), {
        shape: ["does not match any of the allowed forms"],
        size: ['must be a number or "auto"']
      })
      assert.deepStrictEqual(yield* castFields(schema, { shape: { kind: "circle" }, size: 1.5 }), {
        "shape.radius": ["is required"],
        size: ["must be an integer"]
      })
    })
  )

  for (const [schema, input, message] of [
    [Schema.NonEmptyString, "", "must not be empty"],
    [Schema.String.check(Schema.isMaxLength(2)), "abc", "must have a length of at most 2"],
    [Schema.String.check(Schema.isPattern(/^a+$/)), "b", "does not have the required format"],
    [Schema.String.check(Schema.isUUID()), "b", "must be a UUID"],
    [Schema.String.check(Schema.makeFilter(() => false)), "b", "is invalid"],
    [Schema.Finite.check(Schema.isGreaterThan(3)), 1, "must be greater than 3"],
    [Schema.FiniteFromString, "x", "must be a finite number"],
    [Schema.DateTimeUtcFromString, 4, "must be a string"],
    [Schema.DateTimeUtcFromString, "x", "must be a valid UTC DateTime string"],
    [Schema.NullOr(Schema.Int), "x", "must be a number or null"],
    [Schema.Boolean, "yes", "must be true or false"],
    [Schema.Literal("a"), "b", 'must be "a"'],
    [Schema.Enum({ A: "a", B: "b" }), "c", 'must be one of "a", "b"'],
    [Schema.UniqueArray(Schema.Int), [1, 1], "must be an array with unique items"]
  ] as const) {
    it.effect(`says "${message}" of ${JSON.stringify(input)}`, () =>
      Effect.gen(function* () {
        const value: Schema.Codec<unknown, unknown> = schema
        assert.deepStrictEqual(yield* castFields(Schema.Struct({ value }), { value: input }), { value: [message] })
      })
    )
  }

  it.effect("never repeats the rejected input", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ password: Schema.RedactedFromValue(Schema.String.check(Schema.isMinLength(12))) })
      const error = yield* Effect.flip(Changeset.cast(schema, { password: "hunter2" }))
      assert.notInclude(JSON.stringify(error) + error.message + String(error), "hunter2")
    })
  )

  it.effect("leaves out keys that the schema does not have", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ name: Schema.String })
      assert.deepStrictEqual(yield* Changeset.cast(schema, { name: "a", admin: true, id: 7 }), { name: "a" })
    })
  )

  it.effect("passes on what decoding requires", () =>
    Effect.gen(function* () {
      class Words extends Context.Service<Words, ReadonlyArray<string>>()("test/Words") {}
      const Word = Schema.String.pipe(
        Schema.decode({
          decode: SchemaGetter.transformEffect((index: string) =>
            Effect.map(Words, (words) => words[Number(index)] ?? "")
          ),
          encode: SchemaGetter.forbidden(() => "words are not written")
        })
      )
      const effect: Effect.Effect<unknown, ValidationError.ValidationError, Words> = Changeset.cast(
        Schema.Struct({ word: Word }),
        { word: "1" }
      )
      assert.deepStrictEqual(yield* Effect.provideService(effect, Words, ["x", "y"]), { word: "y" })
    })
  )
})

const violation = (fields: Readonly<Record<string, string>>, unique = false) => {
  const cause = Object.assign(new Error("violates a constraint"), fields)
  return new SqlError.SqlError({
    reason: unique
      ? new SqlError.UniqueViolation({ cause, constraint: fields["constraint"] ?? "unknown" })
      : new SqlError.ConstraintError({ cause })
  })
}

const constraints = Changeset.constraints({
  trails_name_key: { field: "name", message: "is already taken" },
  trails_owner_fkey: { field: "owner", message: "does not exist" },
  items_check: { field: ["items", 0, "price"], message: "must be positive" },
  trails_name_not_null: { field: "name", message: "is required" }
})

describe("Changeset.constraints", () => {
  for (const [what, error, expected] of [
    ["unique", violation({ constraint: "trails_name_key" }, true), { name: ["is already taken"] }],
    ["foreign key", violation({ constraint: "trails_owner_fkey" }), { owner: ["does not exist"] }],
    ["check", violation({ constraint: "items_check" }), { "items[0].price": ["must be positive"] }],
    ["not null", violation({ table: "trails", column: "name" }), { name: ["is required"] }]
  ] as const) {
    it.effect(`makes the violation of a declared ${what} constraint an error of its field`, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* fieldsOf(constraints(Effect.fail(error))), expected)
      })
    )
  }

  for (const [what, error] of [
    ["an undeclared constraint", violation({ constraint: "trails_other_key" }, true)],
    ["a constraint without a name", violation({})],
    ["a constraint named like a member of every object", violation({ constraint: "constructor" })],
    [
      "a lost connection",
      new SqlError.SqlError({ reason: new SqlError.ConnectionError({ cause: new Error("gone") }) })
    ],
    [
      "another error that happens to carry a declared name",
      new SqlError.SqlError({
        reason: new SqlError.UnknownError({ cause: Object.assign(new Error("?"), { constraint: "trails_name_key" }) })
      })
    ]
  ] as const) {
    it.effect(`leaves ${what} a defect, which is the error itself`, () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(constraints(Effect.fail(error)))
        assert.isTrue(
          Exit.isFailure(exit) && exit.cause.reasons.some((r) => Cause.isDieReason(r) && r.defect === error)
        )
        assert.isFalse(Exit.isFailure(exit) && Cause.hasFails(exit.cause))
      })
    )
  }

  it.effect("makes a SchemaError of a repository a defect", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(constraints(Schema.decodeUnknownEffect(Schema.Int)("x")))
      assert.isTrue(Exit.isFailure(exit) && exit.cause.reasons.every(Cause.isDieReason))
    })
  )

  it.effect("leaves other typed errors as they are, and says so in its type", () =>
    Effect.gen(function* () {
      const effect: Effect.Effect<never, "paused" | ValidationError.ValidationError> = constraints(
        Effect.andThen(
          Effect.fail("paused" as const),
          Effect.fail<SqlError.SqlError | Schema.SchemaError>(violation({}))
        )
      )
      assert.strictEqual(yield* Effect.flip(effect), "paused")
    })
  )

  it.effect("keeps every reason of the cause: a second failure, a defect, an interruption", () =>
    Effect.gen(function* () {
      const cause = Cause.fromReasons<SqlError.SqlError | string>([
        Cause.makeFailReason(violation({ constraint: "trails_name_key" }, true)),
        Cause.makeFailReason("other"),
        Cause.makeDieReason("a bug"),
        Cause.makeInterruptReason(7)
      ])
      const exit = yield* Effect.exit(constraints(Effect.failCause(cause)))
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(Exit.isFailure(exit) ? exit.cause.reasons.map((reason) => reason._tag) : [], [
        "Fail",
        "Fail",
        "Die",
        "Interrupt"
      ])
    })
  )

  it.effect("does not touch success", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* constraints(Effect.succeed(1)), 1)
    })
  )
})
