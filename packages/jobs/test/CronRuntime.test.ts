import { assert, layer } from "@effect/vitest"
import { Pglite } from "@coppice/postgres"
import { Cause, DateTime, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { EntryNotFound, InvalidEntry } from "../src/Crontab.ts"
import { InvalidJob } from "../src/NewJob.ts"
import { bench, Digest, digest } from "./fixtures/cron.ts"
import { EmptyDatabase } from "./fixtures/engine.ts"

let schemas = 0
const start = Effect.gen(function* () {
  yield* TestClock.setTime(Date.parse("2026-01-01T12:00:00Z"))
  return yield* bench(`runtime_${++schemas}`, "clock")
})
const at = (text: string) => DateTime.makeUnsafe(text)

const errorOf = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.exit(effect), (exit) => (Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined))

layer(EmptyDatabase)("the crontab at run time", (it) => {
  it.effect("lists entries with all that they are, and when they fired and fire", () =>
    Effect.gen(function* () {
      const { cron, loop } = yield* start
      assert.deepStrictEqual(yield* cron.list, [])
      yield* cron.create(digest(" 30 14 * * * ", { timeZone: "Europe/Berlin", catchUp: { all: 7 } }))
      yield* cron.create(digest("@reboot", { name: "reboot" }))
      const fiber = yield* Effect.forkChild(yield* loop([digest("0 * * * *", { name: "static", catchUp: "latest" })]))
      yield* Pglite.advance("61 minutes")
      yield* cron.pause("digest")
      yield* Fiber.interrupt(fiber)
      const job = { worker: "Digest", queue: "mail", args: { to: "ada" } }
      const dynamic = { source: "dynamic", ...job } as const
      assert.deepStrictEqual(yield* cron.list, [
        {
          name: "digest",
          ...dynamic,
          expression: "30 14 * * *",
          timeZone: "Europe/Berlin",
          catchUp: { all: 7 },
          paused: true,
          lastFire: undefined,
          nextFire: undefined
        },
        {
          name: "reboot",
          ...dynamic,
          expression: "@reboot",
          timeZone: "UTC",
          catchUp: "skip",
          paused: false,
          lastFire: undefined,
          nextFire: undefined
        },
        {
          name: "static",
          source: "static",
          ...job,
          expression: "0 * * * *",
          timeZone: "UTC",
          catchUp: "latest",
          paused: false,
          lastFire: at("2026-01-01T13:00:00Z"),
          nextFire: at("2026-01-01T14:00:00Z")
        }
      ])
      yield* cron.resume("digest")
      assert.deepStrictEqual((yield* cron.list)[0]?.nextFire, at("2026-01-01T13:30:00Z"))
    })
  )

  it.effect("creates an entry once: the name is taken then, whatever has it", () =>
    Effect.gen(function* () {
      const { cron, loop, signals } = yield* start
      yield* cron.create(digest("@daily"))
      assert.deepStrictEqual(signals, [{ _tag: "Cron" }])
      const fiber = yield* Effect.forkChild(yield* loop([digest("@daily", { name: "static" })]))
      yield* Pglite.settle
      for (const name of ["digest", "static"]) {
        const error = yield* errorOf(cron.create(digest("@hourly", { name })))
        assert.instanceOf(error, InvalidEntry)
        assert.include(String(error), "exists already")
      }
      assert.deepStrictEqual(
        (yield* cron.list).map(({ expression }) => expression),
        ["@daily", "@daily"]
      )
      assert.strictEqual(signals.length, 1)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("refuses what could not fire, and changes nothing then", () =>
    Effect.gen(function* () {
      const { cron, signals } = yield* start
      yield* cron.create(digest("@daily"))
      const before = yield* cron.list
      for (const refused of [
        cron.create(digest("0 0 30 2 *", { name: "a" })),
        cron.create(digest("0-999999999 * * * *", { name: "a" })),
        cron.create(digest("@daily", { name: "a", timeZone: "Nowhere" })),
        cron.create(digest("@daily", { name: "a\u0000" })),
        cron.change("digest", { expression: "nonsense" }),
        cron.change("digest", { timeZone: "Nowhere" }),
        cron.change("digest", { catchUp: { all: -1 } })
      ]) {
        assert.instanceOf(yield* errorOf(refused), InvalidEntry)
      }
      for (const refused of [
        cron.create(digest("@daily", { name: "a", job: Digest.job({ to: "\ud800" }) })),
        cron.change("digest", { job: Digest.job({ to: "ada" }, { priority: -1 }) })
      ]) {
        assert.instanceOf(yield* errorOf(refused), InvalidJob)
      }
      assert.deepStrictEqual(yield* cron.list, before)
      assert.strictEqual(signals.length, 1)
    })
  )

  it.effect("changes what is said and keeps the rest, when it fired last above all", () =>
    Effect.gen(function* () {
      const { cron, database, loop } = yield* start
      yield* cron.create(digest("0 * * * *", { timeZone: "Europe/Berlin", catchUp: "latest" }))
      const fiber = yield* Effect.forkChild(yield* loop([]))
      yield* Pglite.advance("61 minutes")
      yield* Fiber.interrupt(fiber)
      const [before] = yield* cron.list
      assert(before !== undefined)
      yield* cron.change("digest", { expression: "30 * * * *" })
      assert.deepStrictEqual(yield* cron.list, [
        { ...before, expression: "30 * * * *", nextFire: at("2026-01-01T13:30:00Z") }
      ])
      yield* cron.change("digest", {
        job: Digest.job(
          { to: "grace" },
          { queue: "other", priority: 9, maxAttempts: 1, tags: ["x"], meta: { y: 1 }, partition: "p" }
        ),
        catchUp: "skip",
        timeZone: undefined
      })
      yield* cron.runNow("digest")
      const [row] = yield* database.run(
        `select worker, queue, args, priority, max_attempts, tags, meta, partition_key, catch_up, time_zone
           from ${database.schema}.cron_entries join ${database.schema}.jobs
          using (worker, queue, args, priority, max_attempts, tags, meta, partition_key)`
      )
      assert.deepStrictEqual(row, {
        worker: "Digest",
        queue: "other",
        args: { to: "grace" },
        priority: 9,
        max_attempts: 1,
        tags: ["digest", "x"],
        meta: { y: 1 },
        partition_key: "p",
        catch_up: "skip",
        time_zone: "Europe/Berlin"
      })
    })
  )

  it.effect("runs an entry now, static or dynamic, paused or not, beside its schedule", () =>
    Effect.gen(function* () {
      const { cron, database, events, instants, loop, signals } = yield* start
      yield* cron.create(digest("0 * * * *"))
      yield* cron.pause("digest")
      const fiber = yield* Effect.forkChild(yield* loop([digest("0 * * * *", { name: "static" })]))
      yield* Pglite.advance("10 minutes")
      const ids = [yield* cron.runNow("digest"), yield* cron.runNow("static")]
      assert.deepStrictEqual(ids.map(Number), [1, 2])
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:10:00.000Z", "2026-01-01T12:10:00.000Z"])
      const names = events.map((event) => (event._tag === "CronFired" ? [event.id, event.tick.name] : []))
      assert.deepStrictEqual(names, [
        [1, "digest"],
        [2, "static"]
      ])
      assert.deepInclude(signals, { _tag: "Jobs", queue: "mail" })
      yield* Pglite.advance("51 minutes")
      assert.deepStrictEqual((yield* instants).slice(2), ["2026-01-01T13:00:00.000Z"])
      assert.deepStrictEqual(yield* database.run(`select distinct state from ${database.schema}.jobs`), [
        { state: "available" }
      ])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("says of a static entry that it is one, and lets it be paused", () =>
    Effect.gen(function* () {
      const { cron, instants, loop } = yield* start
      const entries = [digest("* * * * *")]
      const fiber = yield* Effect.forkChild(yield* loop(entries))
      yield* Pglite.settle
      for (const refused of [cron.change("digest", { expression: "@daily" }), cron.delete("digest")]) {
        const error = yield* errorOf(refused)
        assert.instanceOf(error, EntryNotFound)
        assert.include(String(error), "comes from the code")
      }
      yield* cron.pause("digest")
      yield* Pglite.advance("2 minutes")
      yield* Fiber.interrupt(fiber)
      // A pause survives the restart of the node that has the entry.
      const again = yield* Effect.forkChild(yield* loop(entries))
      yield* Pglite.advance("2 minutes")
      assert.deepStrictEqual(yield* instants, [])
      yield* cron.resume("digest")
      yield* Pglite.advance("61 seconds")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T12:05:00.000Z"])
      yield* Fiber.interrupt(again)
    })
  )

  it.effect("takes a static entry that left the code for history: it has no next instant, and can be deleted", () =>
    Effect.gen(function* () {
      const { cron, loop } = yield* start
      const fiber = yield* Effect.forkChild(yield* loop([digest("@daily")]))
      yield* Pglite.advance("12 hours")
      assert.isDefined((yield* cron.list)[0]?.nextFire)
      yield* Fiber.interrupt(fiber)
      yield* Pglite.advance("4 hours")
      assert.isUndefined((yield* cron.list)[0]?.nextFire)
      yield* cron.delete("digest")
      assert.deepStrictEqual(yield* cron.list, [])
    })
  )

  it.effect("gives a name that the code claims to the code", () =>
    Effect.gen(function* () {
      const { cron, instants, loop } = yield* start
      yield* cron.create(digest("* * * * *"))
      const fiber = yield* Effect.forkChild(yield* loop([digest("0 * * * *")]))
      yield* Pglite.advance("61 minutes")
      const [entry] = yield* cron.list
      assert.strictEqual(entry?.source, "static")
      assert.deepStrictEqual(yield* instants, ["2026-01-01T13:00:00.000Z"])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("says of an entry that does not exist that it does not exist", () =>
    Effect.gen(function* () {
      const { cron, signals } = yield* start
      for (const missing of [
        cron.change("x", { expression: "@daily" }),
        cron.pause("x"),
        cron.resume("x"),
        cron.delete("x"),
        cron.runNow("x"),
        cron.runNow("\u0000"),
        cron.pause("\ud800"),
        cron.runNow("'; drop table jobs; --")
      ]) {
        const error = yield* errorOf<unknown, unknown>(missing)
        assert.instanceOf(error, EntryNotFound)
        assert.include(String(error), "does not exist")
      }
      assert.deepStrictEqual(signals, [])
    })
  )

  it.effect("commits or rolls back with the transaction that is open, and tells nobody before", () =>
    Effect.gen(function* () {
      const { cron, events, instants, signals, sql } = yield* start
      const work = Effect.gen(function* () {
        yield* cron.create(digest("@daily"))
        yield* cron.change("digest", { expression: "@hourly" })
        yield* cron.runNow("digest")
        assert.deepStrictEqual([signals, events], [[], []])
      })
      yield* Effect.flip(sql.withTransaction(Effect.andThen(work, Effect.fail("rolled back"))))
      assert.deepStrictEqual([yield* cron.list, yield* instants, signals, events], [[], [], [], []])
      yield* sql.withTransaction(work)
      assert.strictEqual((yield* instants).length, 1)
      assert.strictEqual(events.length, 1)
      assert.deepStrictEqual(signals, [{ _tag: "Cron" }, { _tag: "Cron" }, { _tag: "Jobs", queue: "mail" }])
    })
  )
})
