import { assert, describe, layer } from "@effect/vitest"
import { Sandbox } from "@coppice/postgres"
import { Duration, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { JobsConfig, Migrations, type Queue } from "@coppice/jobs"
import { open, problem } from "./fixtures/queues.ts"
import { insert, recorder } from "./fixtures/tables.ts"
import { EmptyDatabase } from "./fixtures/engine.ts"

const tables = Layer.effectDiscard(Migrations.run).pipe(Layer.provideMerge(EmptyDatabase))
/** Every test in a transaction of its own, on virtual time that begins with it. */
const fresh = Layer.effectDiscard(TestClock.setTime(0)).pipe(
  Layer.merge(recorder),
  Layer.provideMerge(Sandbox.layer),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)

/** How two nodes see the queue `mail`. */
const views = Effect.gen(function* () {
  const { settings } = yield* open
  const of = (name: string) => Effect.map(settings(name, { mail: { limit: 7 } }), ({ mail }) => mail)
  return [yield* of("a"), yield* of("b")]
})
const paused = Effect.map(views, (all) => all.map((view) => view?.paused))
const limit = Effect.map(views, (all) => all.map((view) => view?.limit))

layer(tables)("a queue", (it) => {
  describe("pause and resume", () => {
    it.effect("reach every node, and one by its name", () =>
      Effect.gen(function* () {
        const { queues } = yield* open
        assert.deepStrictEqual(yield* paused, [false, false])
        yield* queues.pause("mail")
        assert.deepStrictEqual(yield* paused, [true, true])
        yield* queues.resume("mail")
        assert.deepStrictEqual(yield* paused, [false, false])
        yield* queues.pause("mail", { node: "a" })
        assert.deepStrictEqual(yield* paused, [true, false])
        yield* queues.resume("mail", { node: "a" })
        assert.deepStrictEqual(yield* paused, [false, false])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("let the last word hold, whichever nodes it was said to", () =>
      Effect.gen(function* () {
        const { queues } = yield* open
        yield* queues.pause("mail")
        yield* queues.resume("mail", { node: "b" })
        assert.deepStrictEqual(yield* paused, [true, false])
        yield* queues.pause("mail")
        assert.deepStrictEqual(yield* paused, [true, true])
        yield* queues.pause("mail", { node: "a" })
        yield* queues.resume("mail")
        assert.deepStrictEqual(yield* paused, [false, false])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("win over what the code says, and leave it alone until they are used", () =>
      Effect.gen(function* () {
        const { queues, settings } = yield* open
        const mail = Effect.map(settings("a", { mail: { paused: true } }), (all) => all["mail"]?.paused)
        assert.strictEqual(yield* mail, true)
        yield* queues.scale("mail", 3)
        assert.strictEqual(yield* mail, true)
        yield* queues.resume("mail")
        assert.strictEqual(yield* mail, false)
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("scale", () => {
    it.effect("reaches every node, and one by its name, and the last word holds", () =>
      Effect.gen(function* () {
        const { queues } = yield* open
        assert.deepStrictEqual(yield* limit, [7, 7])
        yield* queues.scale("mail", 20)
        assert.deepStrictEqual(yield* limit, [20, 20])
        yield* queues.scale("mail", 0, { node: "b" })
        assert.deepStrictEqual(yield* limit, [20, 0])
        yield* queues.scale("mail", null, { node: "b" })
        assert.deepStrictEqual(yield* limit, [20, 20])
        yield* queues.scale("mail", 3, { node: "a" })
        yield* queues.scale("mail", 5)
        assert.deepStrictEqual(yield* limit, [5, 5])
        yield* queues.scale("mail", 3, { node: "a" })
        yield* queues.scale("mail", null)
        assert.deepStrictEqual(yield* limit, [7, 7])
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("limit", () => {
    const limits = Effect.gen(function* () {
      const { queues } = yield* open
      const found = (yield* queues.queues).find(({ name }) => name === "mail")
      return found?.limits
    })

    it.effect("changes what it is given, and leaves the rest", () =>
      Effect.gen(function* () {
        const { queues } = yield* open
        yield* queues.limit("mail", { global: 3, rate: { limit: 10, period: "1 second" } })
        yield* queues.limit("mail", { perPartition: 2 })
        yield* queues.limit("mail", {})
        yield* queues.limit("mail", { global: undefined, ratePerPartition: { limit: 1, period: "1 minute" } })
        const rate = { limit: 10, period: Duration.seconds(1) }
        const ratePerPartition = { limit: 1, period: Duration.minutes(1) }
        assert.deepStrictEqual(yield* limits, { global: 3, perPartition: 2, rate, ratePerPartition })
        yield* queues.limit("mail", { global: null, rate: null })
        assert.deepStrictEqual(yield* limits, { perPartition: 2, ratePerPartition })
        assert.deepStrictEqual(
          (yield* views).map((view) => view?.limited),
          [true, true]
        )
        yield* queues.limit("mail", { perPartition: null, ratePerPartition: null })
        assert.deepStrictEqual(yield* limits, {})
        assert.deepStrictEqual(
          (yield* views).map((view) => view?.limited),
          [false, false]
        )
      }).pipe(Effect.provide(fresh))
    )

    it.effect("wins over the code's limits, also when it says that there is none, and after a restart", () =>
      Effect.gen(function* () {
        const { queues, register } = yield* open
        const code: Queue.Options = { limit: 5, global: 3, rate: { limit: 4, period: 500 } }
        yield* register({ mail: code })
        assert.deepStrictEqual(yield* limits, { global: 3, rate: { limit: 4, period: Duration.millis(500) } })
        yield* queues.limit("mail", { global: null, rate: { limit: 9, period: "1 hour" }, perPartition: 1 })
        yield* register({ mail: code })
        assert.deepStrictEqual(yield* limits, { rate: { limit: 9, period: Duration.hours(1) }, perPartition: 1 })
      }).pipe(Effect.provide(fresh))
    )

    it.effect("follows the code's limits from release to release where nothing was said at run time", () =>
      Effect.gen(function* () {
        const { queues, register } = yield* open
        yield* register({ mail: { limit: 5, global: 3, perPartition: 2 }, other: { limit: 1, global: 1 } })
        yield* queues.limit("mail", { perPartition: 9 })
        yield* register({ mail: { limit: 5, global: 8, perPartition: 4 } })
        assert.deepStrictEqual(yield* limits, { global: 8, perPartition: 9 })
        yield* register({ mail: { limit: 5 } })
        assert.deepStrictEqual(yield* limits, { perPartition: 9 })
        const other = (yield* queues.queues).find(({ name }) => name === "other")
        assert.deepStrictEqual(other?.limits, { global: 1 })
      }).pipe(Effect.provide(fresh))
    )
  })

  it.effect("tells of every change after its commit, and of none that rolled back", () =>
    Effect.gen(function* () {
      const { events, queues, signals } = yield* open
      const sql = yield* SqlClient.SqlClient
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* queues.pause("mail")
          yield* queues.scale("mail", 3)
          assert.deepStrictEqual([signals, events], [[], []])
        })
      )
      yield* Effect.ignore(sql.withTransaction(Effect.andThen(queues.pause("mail"), Effect.fail("no"))))
      yield* queues.limit("mail", { global: 3 })
      yield* queues.resume("mail", { node: "a" })
      yield* queues.limit("mail", {})
      yield* problem(queues.scale("mail", -1))
      assert.deepStrictEqual(
        events.map((event) => event._tag === "QueueChanged" && [event.queue, event.change]),
        ["paused", "scaled", "limited", "resumed"].map((change) => ["mail", change])
      )
      assert.deepStrictEqual(
        signals,
        Array.from({ length: 4 }, () => ({ _tag: "Queue" as const, queue: "mail" }))
      )
    }).pipe(Effect.provide(fresh))
  )

  describe("what makes no sense", () => {
    it.effect("is refused with what to do, and changes nothing", () =>
      Effect.gen(function* () {
        const { events, queues, register } = yield* open
        const every = { period: "1 second" } as const
        const refused: ReadonlyArray<readonly [Effect.Effect<unknown, { readonly message: string }>, string]> = [
          [queues.pause(""), "the name is empty"],
          [queues.pause("x".repeat(128)), "longer than 127"],
          [queues.resume("a\u0000b"), "NUL"],
          [queues.scale("\uD800", 1), "surrogate"],
          [queues.pause("mail", { node: "" }), "leave it out"],
          [queues.pause("mail", { node: "a\u0000" }), "NUL"],
          [queues.pause("mail", { node: "x".repeat(256) }), "longer than 255"],
          [queues.scale("mail", -1), "limit is -1"],
          [queues.scale("mail", Number.NaN), "limit is NaN"],
          [queues.scale("mail", 1.5), "limit is 1.5"],
          [queues.scale("mail", 2 ** 31), "from 0 to 2147483647"],
          [queues.limit("mail", { global: -1 }), "global is -1"],
          [queues.limit("mail", { perPartition: Number.POSITIVE_INFINITY }), "perPartition is Infinity"],
          [queues.limit("mail", { rate: { limit: 0, ...every } }), "pause the queue"],
          [queues.limit("mail", { rate: { limit: -5, ...every } }), "rate.limit is -5"],
          [queues.limit("mail", { rate: { limit: 1, period: 0 } }), "rate.period is 0"],
          [queues.limit("mail", { rate: { limit: 1, period: -5 } }), "rate.period is"],
          [queues.limit("mail", { ratePerPartition: { limit: 1, period: "Infinity" } }), "ratePerPartition.period is"],
          [queues.limit("mail", { ratePerPartition: { limit: 1, period: Number.NaN } }), "ratePerPartition.period is"],
          // A caller without types.
          [queues.limit("mail", { rate: { limit: 1, period: "soon" as "1 second" } }), "not a duration"],
          [queues.limit("mail", { global: "3" as unknown as number }), "global is 3"],
          [register({ good: { limit: 1, global: 1 }, mail: { limit: Number.NaN } }), "limit is NaN"],
          [register({ good: { limit: 1, global: 1 }, mail: { limit: 1, global: -3 } }), "global is -3"]
        ]
        for (const [effect, words] of refused) {
          const message = yield* problem(effect)
          assert.include(message, words)
          assert.match(message, /^Queue "/)
        }
        assert.deepStrictEqual([yield* queues.queues, events], [[], []])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("is not what names may hold: quotes, other alphabets, and statements", () =>
      Effect.gen(function* () {
        const { add, claim, queues, settings } = yield* open
        for (const name of [`'; drop table jobs.jobs; --`, `a"b`, "очередь 🌲", "%s", "__proto__", "x".repeat(127)]) {
          yield* queues.limit(name, { perPartition: 1 })
          yield* queues.pause(name, { node: name })
          yield* add(name, [name, name, null])
          assert.strictEqual((yield* claim(name)).rows.length, 2)
          const found = (yield* queues.queues).find((status) => status.name === name)
          assert.deepStrictEqual(found?.pausedOn, [name])
          const seen = new Map(Object.entries(yield* settings(name, Object.fromEntries([[name, {}]]))))
          assert.deepStrictEqual(seen.get(name), { paused: true, limit: 1, limited: true })
        }
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("the list of queues", () => {
    it.effect("has those of which something was said, and those that have jobs, with how many", () =>
      Effect.gen(function* () {
        const { queues } = yield* open
        yield* insert({ queue: "mail", count: 2 })
        yield* TestClock.adjust("5 seconds")
        yield* insert({ queue: "mail", count: 3 })
        yield* insert({ queue: "mail", state: "executing", count: 4 })
        yield* insert({ queue: "mail", state: "completed", count: 9 })
        yield* insert({ queue: "late", state: "scheduled", count: 5 })
        yield* insert({ queue: "late", state: "retryable" })
        yield* insert({ queue: "busy", state: "executing" })
        yield* queues.pause("idle")
        yield* queues.scale("idle", 4)
        yield* queues.scale("idle", 2, { node: "b" })
        yield* queues.pause("idle", { node: "b" })
        yield* queues.resume("idle", { node: "a" })
        yield* TestClock.adjust("2 seconds")
        const none = { paused: false, pausedOn: [], limit: undefined, limitOn: {}, limits: {} }
        const no = { available: 0, executing: 0, scheduled: 0, retryable: 0, oldestAvailable: undefined }
        assert.deepStrictEqual(yield* queues.queues, [
          { ...none, ...no, name: "busy", executing: 1 },
          { ...none, ...no, name: "idle", paused: true, pausedOn: ["b"], limit: 4, limitOn: { b: 2 } },
          { ...none, ...no, name: "late", scheduled: 5, retryable: 1 },
          {
            ...none,
            name: "mail",
            available: 5,
            executing: 4,
            scheduled: 0,
            retryable: 0,
            oldestAvailable: Duration.seconds(7)
          }
        ])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("counts no further than to ten thousand available jobs", () =>
      Effect.gen(function* () {
        const { queues } = yield* open
        yield* insert({ queue: "mail", count: 10_500 })
        const [mail] = yield* queues.queues
        assert.strictEqual(mail?.available, 10_000)
      }).pipe(Effect.provide(fresh))
    )
  })
})
