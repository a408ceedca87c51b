import { assert, layer } from "@effect/vitest"
import { Pglite, Sandbox } from "@coppice/postgres"
import { Cause, Duration, Effect, Exit, Fiber, Random } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { InvalidEntry } from "../src/Crontab.ts"
import type { CatchUp, Entry } from "../src/Crontab.ts"
import { prepareAll } from "../src/internal/cronEntry.ts"
import { due, parse } from "../src/internal/cronSchedule.ts"
import { InvalidJob } from "../src/NewJob.ts"
import { bench, Digest, digest, live, type Made, open } from "./fixtures/cron.ts"
import { EmptyDatabase } from "./fixtures/engine.ts"

/** Two thousand jobs take a second or two, on a machine that has nothing else to do. */
const busy = 120_000

let schemas = 0
const start = (from: string) =>
  Effect.gen(function* () {
    yield* TestClock.setTime(Date.parse(from))
    return yield* bench(`cron_${++schemas}`, "clock")
  })

const every = (from: string, to: string, step: Duration.Input): ReadonlyArray<string> => {
  const found: Array<string> = []
  const millis = Duration.toMillis(Duration.fromInputUnsafe(step))
  for (let at = Date.parse(from); at <= Date.parse(to); at += millis) found.push(new Date(at).toISOString())
  return found
}
const of = (jobs: ReadonlyArray<Made>, name: string) => jobs.filter((job) => job.name === name).map((job) => job.at)

layer(EmptyDatabase)("the crontab", (it) => {
  const week = (from: string, to: string, nightly: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const { loop, made } = yield* start(from)
      const berlin = { timeZone: "Europe/Berlin" }
      const entries = [
        digest("*/5 * * * *", { name: "often", ...berlin }),
        digest("30 2 * * *", { name: "nightly", ...berlin })
      ]
      yield* live(loop(entries), "7 days")
      const jobs = yield* made
      assert.deepStrictEqual(of(jobs, "nightly"), nightly)
      assert.deepStrictEqual(of(jobs, "often"), every(from, to, "5 minutes").slice(1))
    })

  it.effect(
    "fires every instant of a week in which the clock goes forward, on virtual time",
    () =>
      week("2026-03-26T00:00:00.000Z", "2026-04-02T00:00:00.000Z", [
        "2026-03-26T01:30:00.000Z",
        "2026-03-27T01:30:00.000Z",
        "2026-03-28T01:30:00.000Z",
        "2026-03-29T01:00:00.000Z",
        "2026-03-30T00:30:00.000Z",
        "2026-03-31T00:30:00.000Z",
        "2026-04-01T00:30:00.000Z"
      ]),
    busy
  )

  it.effect(
    "fires every instant of a week in which the clock goes back, on virtual time",
    () =>
      week("2026-10-22T00:00:00.000Z", "2026-10-29T00:00:00.000Z", [
        "2026-10-22T00:30:00.000Z",
        "2026-10-23T00:30:00.000Z",
        "2026-10-24T00:30:00.000Z",
        "2026-10-25T00:30:00.000Z",
        "2026-10-26T01:30:00.000Z",
        "2026-10-27T01:30:00.000Z",
        "2026-10-28T01:30:00.000Z"
      ]),
    busy
  )

  it.effect("makes jobs that are available, know their instant, and are told of", () =>
    Effect.gen(function* () {
      const { database, events, loop, signals } = yield* start("2026-01-01T11:59:00Z")
      yield* live(
        loop([digest("0 12 * * *", { job: Digest.job({ to: "ada" }, { partition: "a", meta: { x: 1 } }) })]),
        "2 minutes"
      )
      const jobs = yield* database.run(
        `select id::int as id, state, queue, worker, args, args_version, priority, max_attempts, tags, meta, attempt,
                partition_key, cron_name, cron_at, scheduled_at, inserted_at, queued_at from ${database.schema}.jobs`
      )
      const noon = new Date("2026-01-01T12:00:00Z")
      assert.deepStrictEqual(jobs, [
        {
          id: 1,
          state: "available",
          queue: "mail",
          worker: "Digest",
          args: { to: "ada" },
          args_version: 1,
          priority: 2,
          max_attempts: 3,
          tags: ["digest"],
          meta: { x: 1 },
          attempt: 0,
          partition_key: "a",
          cron_name: "digest",
          cron_at: noon,
          scheduled_at: noon,
          inserted_at: noon,
          queued_at: noon
        }
      ])
      assert.deepInclude(signals, { _tag: "Jobs", queue: "mail" })
      assert.strictEqual(events.length, 1)
      const [event] = events
      assert(event?._tag === "CronFired")
      assert.strictEqual(event.tick.name, "digest")
      assert.strictEqual(event.tick.at.epochMilliseconds, noon.getTime())
    })
  )

  it.effect("costs one statement a minute while there is nothing to fire", () =>
    Effect.gen(function* () {
      // On the database's own time, which stands still compared with the loop's.
      const { loop } = yield* bench(`cron_${++schemas}`, "database")
      const { cycles } = yield* Pglite.Pglite
      const fiber = yield* Effect.forkChild(yield* loop([digest("0 0 29 2 *")]))
      yield* Pglite.settle
      const before = yield* cycles
      yield* Pglite.advance("10 minutes")
      assert.strictEqual((yield* cycles) - before, 10)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("fires from the first instant of time on", () =>
    Effect.gen(function* () {
      const { instants, loop } = yield* start("1970-01-01T00:00:00Z")
      yield* live(loop([digest("* * * * *", { timeZone: "Africa/Monrovia", catchUp: { all: 10 } })]), "2 minutes")
      assert.strictEqual((yield* instants).length, 2)
    })
  )

  it.effect("does not fire the past of an entry that is new", () =>
    Effect.gen(function* () {
      const { instants, loop } = yield* start("2026-01-01T12:00:30Z")
      yield* live(loop([digest("* * * * *", { catchUp: { all: 100 } })]), "100 seconds")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:01:00.000Z", "2026-01-01T12:02:00.000Z"])
    })
  )

  it.effect("makes up for an outage of three days as each entry says", () =>
    Effect.gen(function* () {
      const { loop, made } = yield* start("2026-01-01T00:00:00Z")
      const entry = (name: string, catchUp: CatchUp) => digest("0 3 * * *", { name, catchUp })
      const entries = [
        entry("skip", "skip"),
        entry("latest", "latest"),
        entry("two", { all: 2 }),
        entry("all", { all: 100 }),
        digest("* * * * * *", { name: "dense", catchUp: { all: 90 } })
      ]
      yield* live(loop(entries.slice(0, 4)), "4 hours")
      yield* live(loop(entries.slice(4)), "3 seconds")
      yield* TestClock.setTime(Date.parse("2026-01-04T03:30:00Z"))
      yield* live(loop(entries), "1 second")
      const jobs = yield* made
      const day = (n: number) => `2026-01-0${n}T03:00:00.000Z`
      assert.deepStrictEqual(of(jobs, "skip"), [day(1)])
      assert.deepStrictEqual(of(jobs, "latest"), [day(1), day(4)])
      assert.deepStrictEqual(of(jobs, "two"), [day(1), day(3), day(4)])
      assert.deepStrictEqual(of(jobs, "all"), [day(1), day(2), day(3), day(4)])
      assert.deepStrictEqual(
        of(jobs, "dense").slice(3),
        every("2026-01-04T03:28:31Z", "2026-01-04T03:30:01Z", "1 second")
      )
    })
  )

  it.effect("fires late what is not older than the tolerance, although it skips what was missed", () =>
    Effect.gen(function* () {
      const { instants, loop } = yield* start("2026-01-01T11:59:00Z")
      const entries = [digest("0 * * * *")]
      yield* live(loop(entries), "10 seconds")
      yield* TestClock.setTime(Date.parse("2026-01-01T12:00:59Z"))
      yield* live(loop(entries), "1 millis")
      yield* TestClock.setTime(Date.parse("2026-01-01T13:01:01Z"))
      yield* live(loop(entries), "1 millis")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:00:00.000Z"])
    })
  )

  it.effect("fires what its policy says over any restarts and downtimes", () =>
    Effect.gen(function* () {
      yield* Effect.forEach(["1", "2", "3"], (seed) =>
        Effect.gen(function* () {
          const { instants, loop } = yield* start("2026-03-28T12:00:00Z")
          const pick = <A>(values: ReadonlyArray<A>) =>
            Effect.map(Random.nextIntBetween(0, values.length), (index) => {
              const value = values[Math.min(index, values.length - 1)]
              if (value === undefined) throw new Error("nothing to pick from")
              return value
            })
          const entry = digest(yield* pick(["*/7 * * * *", "15 */3 * * *", "30 2 * * *", "0 1-4 * * 0"]), {
            timeZone: "Europe/Berlin",
            catchUp: yield* pick<CatchUp>(["skip", "latest", { all: 3 }])
          })
          const schedule = parse("digest", entry.expression, "Europe/Berlin")
          assert(schedule._tag === "Success" && schedule.success._tag === "Calendar")
          const calendar = schedule.success
          const expected: Array<number> = []
          let now = Date.parse("2026-03-28T12:00:00Z")
          let last = now
          for (let round = 0; round < 8; round++) {
            const up = yield* Random.nextIntBetween(1, 5 * 3_600)
            const down = yield* Random.nextIntBetween(1, 12 * 3_600)
            yield* live(loop([entry]), Duration.seconds(up))
            expected.push(...due(calendar, last, now, entry.catchUp ?? "skip"))
            for (let at = calendar.next(now); at <= now + up * 1_000; at = calendar.next(at)) expected.push(at)
            last = Math.max(last, expected.at(-1) ?? 0)
            now += (up + down) * 1_000
            yield* TestClock.adjust(Duration.seconds(down))
          }
          assert.deepStrictEqual(
            yield* instants,
            expected.map((at) => new Date(at).toISOString()),
            JSON.stringify(entry)
          )
        }).pipe(Random.withSeed(seed))
      )
    })
  )

  it.effect("fires an entry that is created while it sleeps, without waiting for the next look", () =>
    Effect.gen(function* () {
      const { cron, instants, loop } = yield* start("2026-01-01T12:00:10Z")
      const fiber = yield* Effect.forkChild(yield* loop([]))
      yield* Pglite.advance("5 seconds")
      yield* cron.create(digest("*/10 * * * * *"))
      yield* Pglite.advance("15 seconds")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:00:20.000Z", "2026-01-01T12:00:30.000Z"])
      yield* cron.change("digest", { expression: "45 * * * * *" })
      yield* Pglite.advance("20 seconds")
      yield* cron.pause("digest")
      yield* Pglite.advance("60 seconds")
      yield* cron.resume("digest")
      yield* Pglite.advance("60 seconds")
      yield* cron.delete("digest")
      yield* Pglite.advance("60 seconds")
      assert.deepStrictEqual((yield* instants).slice(2), ["2026-01-01T12:00:45.000Z", "2026-01-01T12:02:45.000Z"])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("never fires what another node has changed, paused or deleted, even if nobody told", () =>
    Effect.gen(function* () {
      const node = yield* start("2026-01-01T12:00:00Z")
      const other = yield* open(node.sql, node.database.name, "clock")
      for (const name of ["changed", "paused", "deleted", "kept"])
        yield* node.cron.create(digest("30 * * * * *", { name }))
      const fiber = yield* Effect.forkChild(yield* node.loop([digest("30 * * * * *", { name: "static" })]))
      yield* Pglite.advance("10 seconds")
      yield* other.cron.change("changed", { expression: "40 * * * * *" })
      yield* other.cron.pause("paused")
      yield* other.cron.pause("static")
      yield* other.cron.delete("deleted")
      yield* Pglite.advance("45 seconds")
      assert.deepStrictEqual(yield* node.made, [
        { name: "kept", at: "2026-01-01T12:00:30.000Z" },
        { name: "changed", at: "2026-01-01T12:00:40.000Z" }
      ])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("does not make up for instants while an entry was paused", () =>
    Effect.gen(function* () {
      const { cron, instants, loop } = yield* start("2026-01-01T12:00:00Z")
      const entries = [digest("* * * * *", { catchUp: { all: 100 } })]
      yield* live(loop(entries), "61 seconds")
      yield* cron.pause("digest")
      yield* live(loop(entries), "10 minutes")
      yield* cron.resume("digest")
      yield* cron.resume("digest")
      yield* live(loop(entries), "61 seconds")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:01:00.000Z", "2026-01-01T12:12:00.000Z"])
    })
  )

  it.effect("fires with the code's own job, and keeps what fired last when the code changes", () =>
    Effect.gen(function* () {
      const { database, loop } = yield* start("2026-01-01T12:00:00Z")
      const job = (to: string) => ({ job: Digest.job({ to }) })
      yield* live(loop([digest("0 * * * *", job("ada"))]), "61 minutes")
      yield* TestClock.adjust("2 hours")
      yield* live(loop([digest("30 * * * *", { ...job("grace"), catchUp: "latest" })]), "1 second")
      const rows = yield* database.run(`select args, cron_at from ${database.schema}.jobs order by id`)
      assert.deepStrictEqual(rows, [
        { args: { to: "ada" }, cron_at: new Date("2026-01-01T13:00:00Z") },
        { args: { to: "grace" }, cron_at: new Date("2026-01-01T14:30:00Z") }
      ])
    })
  )

  it.effect("fires the other entries when one of them cannot fire", () =>
    Effect.gen(function* () {
      const { cron, database, instants, loop } = yield* start("2026-01-01T12:00:00Z")
      yield* cron.create(digest("* * * * *", { name: "broken", catchUp: "latest" }))
      yield* cron.create(digest("* * * * *", { name: "sound" }))
      yield* cron.create(digest("* * * * *", { name: "unreadable" }))
      yield* database.run(`alter table ${database.schema}.jobs add constraint c check (cron_name <> 'broken')`)
      yield* database.run(`update ${database.schema}.cron_entries set expression = 'x' where name = 'unreadable'`)
      const fiber = yield* Effect.forkChild(yield* loop([digest("* * * * *", { name: "zstatic" })]))
      const before = yield* (yield* Pglite.Pglite).cycles
      yield* Pglite.advance("61 seconds")
      assert.isBelow((yield* (yield* Pglite.Pglite).cycles) - before, 30)
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:01:00.000Z", "2026-01-01T12:01:00.000Z"])
      yield* database.run(`alter table ${database.schema}.jobs drop constraint c`)
      yield* Pglite.advance("16 seconds")
      assert.strictEqual((yield* instants).length, 3)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("registers its entries again when somebody removes their rows by hand", () =>
    Effect.gen(function* () {
      const { database, instants, loop } = yield* start("2026-01-01T12:00:00Z")
      const fiber = yield* Effect.forkChild(yield* loop([digest("0 * * * *")]))
      yield* Pglite.advance("1 minute")
      yield* database.run(`delete from ${database.schema}.cron_entries`)
      yield* Pglite.advance("3 hours")
      assert.deepStrictEqual((yield* instants).slice(-1), ["2026-01-01T15:00:00.000Z"])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("works in a sandbox, and leaves nothing behind", () =>
    Effect.gen(function* () {
      const { database } = yield* start("2026-01-01T12:00:00Z")
      yield* Effect.gen(function* () {
        const inside = yield* open(yield* SqlClient.SqlClient, database.name, "clock")
        yield* inside.cron.create(digest("* * * * *"))
        yield* live(inside.loop([digest("* * * * *", { name: "static" })]), "61 seconds")
        assert.strictEqual((yield* inside.instants).length, 2)
      }).pipe(Effect.provide(Sandbox.layer), Effect.scoped)
      assert.deepStrictEqual(yield* database.run(`select * from ${database.schema}.cron_entries`), [])
    })
  )

  it.effect("is refused as a whole when an entry of the code is wrong", () =>
    Effect.gen(function* () {
      const refused = (entries: ReadonlyArray<Entry>) =>
        Effect.map(Effect.exit(prepareAll(entries)), (exit) =>
          Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        )
      assert.isUndefined(yield* refused([digest("@daily"), digest("@reboot", { name: "b" })]))
      for (const [entry, said] of [
        [digest("x"), "cannot be read"],
        [digest("@daily", { timeZone: "Nowhere" }), "unknown time zone"],
        [digest("@daily", { name: "" }), "needs a name"],
        [digest("@daily", { name: "a\u0000" }), "NUL byte"],
        [digest("@daily", { name: "\ud800" }), "surrogate"],
        [digest("@daily", { name: "x".repeat(256) }), "255 characters"],
        [digest("@daily", { catchUp: { all: 0 } }), "a whole number from 1"],
        [digest("@daily", { catchUp: { all: 1.5 } }), "a whole number from 1"],
        [digest("@daily", { catchUp: { all: Infinity } }), "a whole number from 1"]
      ] as const) {
        const error = yield* refused([entry])
        assert.instanceOf(error, InvalidEntry)
        assert.include(String(error), said)
      }
      const twice = yield* refused([digest("@daily"), digest("@hourly")])
      assert.instanceOf(twice, InvalidEntry)
      assert.include(String(twice), "twice")
      for (const job of [
        Digest.job({ to: "\u0000" }),
        Digest.job({ to: "ada" }, { priority: 10 }),
        Digest.job({ to: "ada" }, { queue: "" }),
        Digest.job({ to: "ada" }, { maxAttempts: 0 }),
        Digest.job({ to: "ada" }, { tags: ["\ud800"] }),
        Digest.job({ to: "ada" }, { meta: { "\u0000": 1 } }),
        Digest.job({ to: "ada" }, { partition: "\u0000" })
      ]) {
        assert.instanceOf(yield* refused([digest("@daily", { job })]), InvalidJob)
      }
    })
  )
})
