import { type NewJob, Worker } from "@coppice/jobs"
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { createHash } from "node:crypto"
import { canonical } from "../src/internal/json.ts"
import { keyOf, type Rule, ruleOf } from "../src/internal/unique.ts"
import { Anything, Mail, Sync } from "./fixtures/enqueue.ts"

const problemOf = ({ args }: NewJob.NewJob) => (args._tag === "Invalid" ? args.error : undefined)

describe("a job", () => {
  it("holds its args as JSON", () => {
    class Shapes extends Worker.Service<Shapes>()("Shapes", {
      args: {
        at: Schema.DateTimeUtc,
        big: Schema.BigInt,
        ids: Schema.ReadonlySet(Schema.Int),
        nothing: Schema.optional(Schema.String),
        not: Schema.Number
      }
    }) {}
    const decoded = { at: "2026-11-23T10:00:00.000Z", big: "12345678901234567890", ids: [1, 2], not: "NaN" }
    const args = Schema.decodeUnknownSync(
      Schema.toCodecJson(
        Schema.Struct({
          at: Schema.DateTimeUtc,
          big: Schema.BigInt,
          ids: Schema.ReadonlySet(Schema.Int),
          nothing: Schema.optional(Schema.String),
          not: Schema.Number
        })
      )
    )(decoded)
    const { args: stored } = Shapes.job(args)
    assert.deepStrictEqual(stored, { _tag: "Valid", value: decoded })
  })

  it("of args that do not fit their schema says what is wrong", () => {
    // What a caller without types may write.
    assert.include(
      problemOf(Mail.job({} as { to: string }))?.message,
      'args do not fit their schema: Missing key\n  at ["to"]'
    )
    assert.include(problemOf(Mail.job(undefined as never))?.message, "args do not fit their schema")
  })

  it("of args that PostgreSQL cannot hold says where", () => {
    assert.strictEqual(problemOf(Mail.job({ to: "a\u0000" }))?.path, "args.to")
    assert.strictEqual(problemOf(Anything.job({ a: [{ "b c": "\uDFFF" }] }))?.path, 'args.a[0]["b c"]')
    assert.strictEqual(problemOf(Anything.job({ "\uD800": 1 }))?.path, 'args["\\ud800"]')
    assert.strictEqual(problemOf(Anything.job("\uDC00\uD800"))?.path, "args")
    assert.isUndefined(problemOf(Anything.job("\uD83C\uDF33")))
  })

  it("survives args that are too deep for their schema", () => {
    interface Tree {
      readonly branches: ReadonlyArray<Tree>
    }
    const Tree = Schema.Struct({ branches: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree)) })
    class Forest extends Worker.Service<Forest>()("Forest", { args: Tree }) {}
    let tree: Tree = { branches: [] }
    for (let level = 0; level < 50_000; level++) tree = { branches: [tree] }
    assert.strictEqual(problemOf(Forest.job(tree))?.path.slice(0, 4), "args")
  })

  it("cannot be unique by a field that args have under another name once they are encoded", () => {
    const args = Schema.Struct({ userId: Schema.Int }).pipe(Schema.encodeKeys({ userId: "user_id" }))
    class Renamed extends Worker.Service<Renamed>()("Renamed", { args, unique: { keys: ["userId"] } }) {}
    assert.strictEqual(
      problemOf(Renamed.job({ userId: 1 }))?.message,
      "A job for Renamed cannot be enqueued: options.unique.keys name userId, which encoded args do not have: they have user_id"
    )
    assert.isUndefined(problemOf(Renamed.job({ userId: 1 }, { unique: { keys: [] } })))
  })

  it("whose partition cannot be told is invalid alone", () => {
    class Tenant extends Worker.Service<Tenant>()("Tenant", {
      args: { tenant: Schema.NullOr(Schema.Struct({ id: Schema.String })) },
      // What somebody writes who does not expect null.
      partition: ({ tenant }) => (tenant as { readonly id: string }).id
    }) {}
    const jobs = [{ id: "a" }, null, { id: "b" }].map((tenant) => Tenant.job({ tenant }))
    assert.deepStrictEqual(
      jobs.map((job) => job.partition ?? problemOf(job)?.path),
      ["a", "partition", "b"]
    )
    assert.include(
      problemOf(Tenant.job({ tenant: null }))?.message,
      "A job for Tenant cannot be enqueued: partition of its args cannot be told: TypeError: Cannot read properties of null"
    )
    assert.strictEqual(Tenant.job({ tenant: null }, { partition: "c" }).partition, "c")
  })

  it("adds its tags and meta to those of its worker", () => {
    const job = Sync.job({ account: 1 }, { tags: ["b", "io"], meta: { team: "b", n: 1 } })
    assert.deepStrictEqual(job.tags, ["io", "b"])
    assert.deepStrictEqual(job.meta, { team: "b", n: 1 })
  })
})

describe("a unique key", () => {
  const key = (unique: NewJob.Unique<string>, job: NewJob.NewJob) =>
    keyOf(ruleOf(unique) as Rule, job, job.args._tag === "Valid" ? job.args.value : null)

  it("does not depend on the order of fields, of keys, and of properties", () => {
    const a = key({ fields: ["args", "worker"], keys: ["x", "y"] }, Anything.job({ x: { p: 1, q: 2 }, y: 1, z: 1 }))
    const b = key({ fields: ["worker", "args"], keys: ["y", "x"] }, Anything.job({ z: 2, y: 1, x: { q: 2, p: 1 } }))
    assert.strictEqual(a, b)
    assert.match(`${a}`, /^[0-9a-f]{64}$/)
  })

  it("stays as it is from version to version, because the database has keys of older ones", () => {
    const sha256 = (text: string) => createHash("sha256").update(text).digest("hex")
    assert.strictEqual(
      key({}, Mail.job({ to: "ada" })),
      sha256('["coppice/jobs/unique/1","worker","Mail","queue","default","args",{"to":"ada"}]')
    )
    assert.strictEqual(
      key({ fields: ["meta", "args", "worker"], keys: ["full", "account"] }, Sync.job({ account: 7 })),
      sha256('["coppice/jobs/unique/1","worker","Sync","keys",["account",7],["full"],"meta",{"team":"a"}]')
    )
  })

  it("is another for everything that could be taken for the same", () => {
    const jobs: ReadonlyArray<readonly [NewJob.Unique<string>, Schema.Json]> = [
      [{}, {}],
      [{}, []],
      [{}, null],
      [{}, ""],
      [{}, "{}"],
      [{}, { a: null }],
      [{ keys: ["a"] }, {}],
      [{ keys: ["a"] }, { a: null }],
      [{ keys: ["a"] }, { a: 1 }],
      [{}, ["a", 1]],
      [{}, ["a"]],
      [{}, [["a", 1]]],
      [{ keys: ["a"] }, { a: "null" }],
      [{ keys: ["a", "b"] }, { a: null }],
      [{ keys: ["b"] }, {}],
      [{ keys: ['a"],["b'] }, {}],
      [{ fields: ["args"] }, {}],
      [{ fields: ["args", "meta"] }, {}],
      [{ fields: ["worker", "args"] }, {}],
      [{ fields: ["queue", "args"] }, {}]
    ]
    const keys = jobs.map(([unique, args]) => key(unique, Anything.job(args)))
    assert.strictEqual(new Set(keys).size, jobs.length)
  })
})

describe("canonical", () => {
  it("gives equal values equal texts, and others other ones", () => {
    assert.strictEqual(canonical({ b: [1, { d: 1, c: 2 }], a: "\n" }), '{"a":"\\n","b":[1,{"c":2,"d":1}]}')
    assert.strictEqual(canonical({ a: -0, é: 1, e: 1 }), '{"a":0,"e":1,"é":1}')
  })
})
