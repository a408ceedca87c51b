import { Jobs } from "@coppice/jobs"
import { TestJobs } from "@coppice/testing"
import { assert, layer } from "@effect/vitest"
import { DateTime, Effect, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import { Absent, Any, Below, Database, Letter, workers } from "./fixtures/workers.ts"

const Manual = TestJobs.layerManual({ workers }).pipe(Layer.provideMerge(Below))

const run = <A, E>(effect: Effect.Effect<A, E, Layer.Success<typeof Manual>>) =>
  Effect.provide(effect, Manual, { local: true })

const to = { street: "Dorset Street 1", city: "London" }
const on = DateTime.makeUnsafe("2026-01-02T00:00:00Z")
const letter = { to, pages: [{ text: "Dear Ada" }, { text: "Yours" }], on }

/** Numbers and times differ from run to run. */
const textOf = (error: { readonly message: string }) =>
  error.message.replaceAll(/#\d+/g, "#N").replaceAll(/1970-[^\s)]+Z/g, "TIME")

layer(Database)("assertEnqueued", (it) => {
  it.effect("compares parts of args as the worker sees them", () =>
    run(
      Effect.gen(function* () {
        yield* Letter.enqueue(letter)
        const job = yield* TestJobs.assertEnqueued(Letter)
        assert.deepStrictEqual(job.args, letter)
        for (const args of [
          { to: { city: "London" } },
          { pages: [{ text: "Dear Ada" }, {}] },
          { on },
          { on: (found: DateTime.Utc) => DateTime.isGreaterThan(found, DateTime.makeUnsafe(0)) },
          { to: { city: (city: string) => city.startsWith("L") } },
          { urgent: undefined },
          {}
        ]) {
          yield* TestJobs.assertEnqueued(Letter, { args })
          yield* Effect.flip(TestJobs.refuteEnqueued(Letter, { args }))
        }
        for (const args of [
          { to: { city: "Paris" } },
          { pages: [{ text: "Dear Ada" }] },
          { pages: [{ text: "Yours" }, { text: "Dear Ada" }] },
          { on: DateTime.makeUnsafe(0) },
          { to: { city: (city: string) => city.startsWith("P") } },
          { urgent: true }
        ]) {
          yield* Effect.flip(TestJobs.assertEnqueued(Letter, { args }))
          yield* TestJobs.refuteEnqueued(Letter, { args })
        }
      })
    )
  )

  it.effect("compares what else there is of a job", () =>
    run(
      Effect.gen(function* () {
        yield* TestClock.setTime(1_000_000)
        yield* Letter.enqueue(letter, {
          queue: "slow",
          priority: 3,
          maxAttempts: 7,
          tags: ["blue"],
          meta: { tenant: { id: 1, name: "a" } },
          scheduleIn: "1 hour"
        })
        yield* TestClock.adjust("10 minutes")
        for (const expected of [
          { queue: "slow", priority: 3, maxAttempts: 7 },
          { tags: ["blue"] },
          { tags: ["blue", "letter"] },
          { meta: { tenant: { id: 1 } } },
          { scheduledIn: "1 hour" },
          { scheduledIn: "59 minutes", delta: "1 minute" },
          { scheduledAt: 1_000_000 + 3_600_500 },
          { state: "scheduled" },
          { state: ["scheduled", "retryable"] }
        ] satisfies ReadonlyArray<TestJobs.Expected<typeof letter>>) {
          yield* TestJobs.assertEnqueued(Letter, expected)
        }
        for (const expected of [
          { queue: "mail" },
          { priority: 0 },
          { maxAttempts: 20 },
          { tags: ["red"] },
          { meta: { tenant: { id: 2 } } },
          { scheduledIn: "1 minute" },
          { scheduledAt: 1_000_000 },
          { state: "available" }
        ] satisfies ReadonlyArray<TestJobs.Expected<typeof letter>>) {
          yield* TestJobs.refuteEnqueued(Letter, expected)
        }
      })
    )
  )

  it.effect("looks at jobs that wait for their first run, unless it is told of other states", () =>
    run(
      Effect.gen(function* () {
        for (const ending of ["fails", "completes", "cancels"] as const) yield* Any.enqueue({ ending })
        yield* TestJobs.drain()
        yield* TestJobs.refuteEnqueued(Any)
        yield* TestJobs.assertEnqueued(Any, { args: { ending: "fails" }, state: "retryable" })
        yield* TestJobs.assertEnqueued(Any, { args: { ending: "completes" }, state: ["completed", "discarded"] })
        assert.strictEqual(
          (yield* TestJobs.allEnqueued(Any, { state: ["cancelled", "completed", "retryable"] })).length,
          3
        )
      })
    )
  )

  it.effect("lists all, newest first", () =>
    run(
      Effect.gen(function* () {
        for (const n of [1, 2, 3]) yield* Any.enqueue({ ending: "completes", n })
        const found = yield* TestJobs.allEnqueued(Any, { args: { n: (n) => n !== 2 } })
        assert.deepStrictEqual(
          found.map(({ args }) => args.n),
          [3, 1]
        )
      })
    )
  )

  it.effect("shows where jobs of the worker differ, those that come nearest first, and what else there is", () =>
    run(
      Effect.gen(function* () {
        yield* Letter.enqueue({ ...letter, to: { ...to, city: "Paris" } }, { queue: "slow" })
        yield* Letter.enqueue(letter, { queue: "slow" })
        yield* Letter.enqueue({ ...letter, pages: [{ text: "Dear Bob" }, { text: "Yours" }] }, { scheduleIn: "1 hour" })
        yield* Any.enqueue({ ending: "cancels" })
        yield* TestJobs.drain({ queue: "default" })
        const error = yield* Effect.flip(
          TestJobs.assertEnqueued(Letter, {
            args: { to: { city: "London" }, pages: [{ text: "Dear Ada" }, {}] },
            queue: "mail",
            scheduledIn: 0
          })
        )
        assert.strictEqual(
          textOf(error),
          `No job of Letter is enqueued with

  args: {"to":{"city":"London"},"pages":[{"text":"Dear Ada"},{}]}
  queue: "mail"
  scheduledIn: 0
  state: available or scheduled

What there is of Letter:

  #N Letter, available, in queue "slow"
    queue: expected "mail", found "slow"
  #N Letter, scheduled for TIME, in queue "mail"
    args.pages[0].text: expected "Dear Ada", found "Dear Bob"
    scheduledIn: expected 0, found 1h
  #N Letter, available, in queue "slow"
    args.to.city: expected "London", found "Paris"
    queue: expected "mail", found "slow"

Jobs of others:

  #N Any, cancelled, in queue "default" {"ending":"cancels"}`
        )
      })
    )
  )

  it.effect("says so when there is nothing at all", () =>
    run(
      Effect.gen(function* () {
        const error = yield* Effect.flip(TestJobs.assertEnqueued(Letter))
        assert.strictEqual(
          textOf(error),
          `No job of Letter is enqueued with

  state: available or scheduled

There are no jobs at all. Has the transaction that enqueued it ended, and not rolled back? Is it the same database?`
        )
      })
    )
  )

  it.effect("shows no more than a screen of it", () =>
    run(
      Effect.gen(function* () {
        for (let n = 0; n < 8; n++) yield* Any.enqueue({ ending: "completes", n })
        const error = yield* Effect.flip(TestJobs.assertEnqueued(Any, { args: { n: 9 } }))
        assert.match(error.message, /found 7\n/)
        assert.match(error.message, /and 3 more$/)
      })
    )
  )

  it.effect("shows what a predicate refused, and values as they would be written", () =>
    run(
      Effect.gen(function* () {
        yield* Letter.enqueue(letter)
        const error = yield* Effect.flip(
          TestJobs.assertEnqueued(Letter, {
            args: { to: { city: (city) => city === "Paris" }, on: DateTime.makeUnsafe(0), pages: [] }
          })
        )
        assert.include(
          textOf(error),
          `
    args.to.city: expected what the predicate accepts, found "London"
    args.on: expected DateTime.Utc(TIME), found DateTime.Utc(2026-01-02T00:00:00.000Z)
    args.pages: expected [], found [{"text":"Dear Ada"},{"text":"Yours"}]`
        )
      })
    )
  )

  it.effect("is not misled by args that the worker's code cannot read", () =>
    run(
      Effect.gen(function* () {
        const jobs = yield* Jobs.Jobs
        const { args } = Absent.job({})
        yield* jobs.enqueue({ ...Any.job({ ending: "completes" }), args })
        const error = yield* Effect.flip(TestJobs.assertEnqueued(Any))
        assert.match(error.message, /args: expected what fits the worker's schema, found \{\}/)
        yield* TestJobs.refuteEnqueued(Any)
      })
    )
  )
})

layer(Database)("refuteEnqueued", (it) => {
  it.effect("shows what should not be there", () =>
    run(
      Effect.gen(function* () {
        yield* Any.enqueue({ ending: "completes", n: 1 })
        yield* Any.enqueue({ ending: "fails", n: 1 })
        const error = yield* Effect.flip(TestJobs.refuteEnqueued(Any, { args: { n: 1 } }))
        assert.strictEqual(
          textOf(error),
          `2 jobs of Any should not be enqueued with

  args: {"n":1}
  state: available or scheduled

There is:

  #N Any, available, in queue "default" {"n":1,"ending":"fails"}
  #N Any, available, in queue "default" {"n":1,"ending":"completes"}`
        )
      })
    )
  )
})

layer(Database)("with time to wait", (it) => {
  it.effect("assertEnqueued sees what another fiber enqueues, and no virtual time passes", () =>
    run(
      Effect.gen(function* () {
        yield* Effect.forkChild(
          TestClock.withLive(Effect.sleep("30 millis")).pipe(Effect.andThen(Any.enqueue({ ending: "completes" })))
        )
        yield* TestJobs.assertEnqueued(Any, {}, { within: "10 seconds" })
      })
    )
  )

  it.effect("refuteEnqueued looks for all of the time", () =>
    run(
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(
          TestClock.withLive(Effect.sleep("30 millis")).pipe(Effect.andThen(Any.enqueue({ ending: "completes" })))
        )
        const error = yield* Effect.flip(TestJobs.refuteEnqueued(Any, {}, { within: "10 seconds" }))
        assert.strictEqual(error._tag, "AssertionFailed")
        yield* Fiber.join(fiber)
      })
    )
  )

  it.effect("both end in time", () =>
    run(
      Effect.gen(function* () {
        yield* TestJobs.refuteEnqueued(Any, {}, { within: "20 millis" })
        yield* Effect.flip(TestJobs.assertEnqueued(Any, {}, { within: "20 millis" }))
      })
    )
  )
})
