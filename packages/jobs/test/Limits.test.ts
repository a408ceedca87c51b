import { assert, describe, layer } from "@effect/vitest"
import { Sandbox } from "@coppice/postgres"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { JobsConfig, Migrations } from "@coppice/jobs"
import * as Claim from "../src/internal/claim.ts"
import { millis, node, open, partitionsOf, tally } from "./fixtures/queues.ts"
import { key, keys, recorder } from "./fixtures/tables.ts"
import { EmptyDatabase } from "./fixtures/engine.ts"

const tables = Layer.effectDiscard(Migrations.run).pipe(Layer.provideMerge(EmptyDatabase))
/** Every test in a transaction of its own, on virtual time that begins with it. */
const fresh = Layer.effectDiscard(TestClock.setTime(1_700_000_000_000)).pipe(
  Layer.merge(recorder),
  Layer.provideMerge(Sandbox.layer),
  Layer.provide(Layer.succeed(JobsConfig.TimeSource, "clock"))
)

const numbered = (count: number, prefix = "t") => Array.from({ length: count }, (_, n) => `${prefix}${n}`)
const times = <A>(count: number, value: A): ReadonlyArray<A> => Array.from({ length: count }, () => value)

/** Claims, and answers the partitions of what it got. */
const claimPartitions = (queue: string, demand?: number) =>
  Effect.gen(function* () {
    const { claim } = yield* open
    const { rows } = yield* claim(queue, demand)
    return yield* partitionsOf(rows.map((row) => row.id))
  })

layer(tables)("limits over all nodes", (it) => {
  describe("a claim", () => {
    it.effect("brings the same as one of a queue without limits", () =>
      Effect.gen(function* () {
        const { add, claim, database, queues } = yield* open
        yield* add("plain", times(3, "a"), { priority: 2, version: 7 })
        yield* add("limited", times(3, "a"), { priority: 2, version: 7 })
        yield* queues.limit("limited", { global: 3 })
        const plain = yield* Claim.make(database)("plain", 9, node, new Claim.Marks().after(true), [])
        const limited = (yield* claim("limited", 9)).rows
        const shape = (rows: ReadonlyArray<Claim.ClaimedRow>) =>
          rows.map((row) => ({ ...row, id: 0, retry_millis: null }))
        assert.deepStrictEqual(shape(limited), shape(plain))
        const written = yield* database.run(
          `select queue, array_agg(distinct to_jsonb(j) - 'id' - 'queue') as rows from jobs.jobs j group by queue`
        )
        assert.deepStrictEqual((written[0] as { rows: unknown }).rows, (written[1] as { rows: unknown }).rows)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("goes by priority, then by age, and takes no more than is wanted", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        yield* queues.limit("mail", { global: 100 })
        const [last] = yield* add("mail", ["a"], { priority: 9 })
        const [second, third] = yield* add("mail", ["b", "a"], { priority: 3 })
        yield* TestClock.adjust("1 second")
        const [first] = yield* add("mail", [null], { priority: 0 })
        const order: Array<number | undefined> = []
        for (let n = 0; n < 4; n++) order.push(...(yield* claim("mail", 1)).rows.map((row) => row.id))
        assert.deepStrictEqual(order, [first, second, third, last])
        for (const demand of [0, -1, 5]) assert.deepStrictEqual((yield* claim("mail", demand)).rows, [])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("leaves other queues' jobs, and those that the node has no code for", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        for (const limits of [{ global: 9 }, { perPartition: 9 }]) {
          yield* queues.limit("mail", limits)
          yield* add("other", ["a", null])
          yield* add("mail", ["a", null], { worker: "Unknown" })
          yield* add("mail", ["b", null], { worker: "Test", version: 2 })
          const mine = yield* add("mail", ["a", "b", null])
          const { rows } = yield* claim("mail", 100, ["Unknown", "Test@2"])
          assert.sameMembers(
            rows.map((row) => row.id),
            mine
          )
        }
      }).pipe(Effect.provide(fresh))
    )

    it.effect("gives back unique keys that are not for executing jobs, and no others", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        for (const limits of [{ global: 9 }, { perPartition: 9 }]) {
          yield* queues.limit("mail", limits)
          const [one, two] = yield* add("mail", ["a", null])
          assert.isDefined(one)
          assert.isDefined(two)
          yield* key(one, { key: `waiting ${one}`, states: 2 })
          yield* key(two, { key: `executing ${two}`, states: 6 })
          const before = yield* keys
          assert.strictEqual((yield* claim("mail")).rows.length, 2)
          delete before[`waiting ${one}`]
          assert.deepStrictEqual(yield* keys, before)
        }
      }).pipe(Effect.provide(fresh))
    )

    it.effect("of a node that does not know of the limits yet takes nothing", () =>
      Effect.gen(function* () {
        const { add, claim, database, queues, register } = yield* open
        yield* add("mail", times(5, null))
        const plain = Effect.map(
          Claim.make(database)("mail", 1, node, new Claim.Marks().after(true), []),
          (rows) => rows.length
        )
        assert.strictEqual(yield* plain, 1)
        const rate = { limit: 5, period: "1 second" } as const
        for (const limits of [{ global: 5 }, { rate }, { perPartition: 5 }, { ratePerPartition: rate }]) {
          yield* queues.limit("mail", {
            global: null,
            rate: null,
            perPartition: null,
            ratePerPartition: null,
            ...limits
          })
          assert.strictEqual(yield* plain, 0)
        }
        yield* queues.limit("mail", { ratePerPartition: null })
        assert.strictEqual(yield* plain, 1)
        yield* register({ other: { limit: 1, perPartition: 1 } })
        yield* add("other", [null])
        assert.deepStrictEqual(yield* Claim.make(database)("other", 1, node, new Claim.Marks().after(true), []), [])
        assert.strictEqual((yield* claim("other")).rows.length, 1)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("takes all that is wanted of a queue of which nothing was said", () =>
      Effect.gen(function* () {
        const { add, claim } = yield* open
        yield* add("mail", times(5, null))
        const { retryIn, rows } = yield* claim("mail", 4)
        assert.deepStrictEqual([rows.length, retryIn], [4, undefined])
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("the global limit", () => {
    it.effect("counts what executes, whoever claimed it and however it ends", () =>
      Effect.gen(function* () {
        const { add, claim, database, end, queues } = yield* open
        yield* queues.limit("mail", { global: 3 })
        yield* add("mail", times(10, null))
        const first = yield* claim("mail")
        assert.strictEqual(first.rows.length, 3)
        assert.isUndefined(first.retryIn)
        assert.strictEqual((yield* claim("mail")).rows.length, 0)
        const [one, two] = first.rows.map((row) => row.id)
        assert.isDefined(one)
        assert.isDefined(two)
        yield* end([one])
        // As a rescue or a failure does.
        yield* database.run("update jobs.jobs set state = 'retryable', leased_by = null where id = $1::float8", [two])
        assert.strictEqual((yield* claim("mail")).rows.length, 2)
        yield* queues.limit("mail", { global: 1 })
        yield* end(first.rows.map((row) => row.id))
        assert.strictEqual((yield* claim("mail")).rows.length, 0)
        yield* end()
        assert.strictEqual((yield* claim("mail")).rows.length, 1)
        yield* queues.limit("mail", { global: 0 })
        yield* end()
        assert.strictEqual((yield* claim("mail")).rows.length, 0)
        yield* queues.limit("mail", { global: null })
        assert.strictEqual((yield* claim("mail")).rows.length, 4)
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("a rate", () => {
    it.effect("starts with a full bucket, and then starts exactly as many as it says", () =>
      Effect.gen(function* () {
        const { add, claim, end, queues } = yield* open
        yield* queues.limit("mail", { rate: { limit: 10, period: "1 second" } })
        yield* add("mail", times(200, null))
        const perSecond = [0, 0, 0, 0, 0, 0]
        for (let elapsed = 0; elapsed <= 5_000;) {
          const { retryIn, rows } = yield* claim("mail")
          perSecond[Math.ceil(elapsed / 1_000)] = (perSecond[Math.ceil(elapsed / 1_000)] ?? 0) + rows.length
          yield* end()
          // A token every 100 ms, and nothing to do until then.
          assert.strictEqual(millis(retryIn), 100)
          yield* TestClock.adjust("99 millis")
          assert.strictEqual((yield* claim("mail")).rows.length, 0)
          yield* TestClock.adjust("1 millis")
          elapsed += 100
        }
        assert.deepStrictEqual(perSecond, [10, 10, 10, 10, 10, 10])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("never holds more than its limit, and counts only what was claimed", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        yield* queues.limit("mail", { rate: { limit: 10, period: "1 second" } })
        yield* add("mail", times(4, null))
        const few = yield* claim("mail")
        assert.deepStrictEqual([few.rows.length, few.retryIn], [4, undefined])
        yield* add("mail", times(100, null))
        assert.strictEqual((yield* claim("mail")).rows.length, 6)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual((yield* claim("mail", 3)).rows.length, 3)
        assert.strictEqual((yield* claim("mail")).rows.length, 7)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("can be slower than one per period of its own, and follows changes", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        yield* queues.limit("mail", { rate: { limit: 1, period: "1 day" } })
        yield* add("mail", times(100, null))
        const first = yield* claim("mail")
        assert.deepStrictEqual([first.rows.length, millis(first.retryIn)], [1, 86_400_000])
        yield* TestClock.adjust("6 hours")
        const second = yield* claim("mail")
        assert.deepStrictEqual([second.rows.length, millis(second.retryIn)], [0, 64_800_000])
        yield* queues.limit("mail", { rate: { limit: 4, period: "1 day" } })
        assert.strictEqual((yield* claim("mail")).rows.length, 1)
        yield* queues.limit("mail", { rate: null })
        assert.strictEqual((yield* claim("mail", 5)).rows.length, 5)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("starts nothing twice for a time that comes twice, and goes on when the clock was turned back", () =>
      Effect.gen(function* () {
        const { add, claim, end, queues } = yield* open
        yield* queues.limit("mail", { rate: { limit: 10, period: "1 second" } })
        yield* add("mail", times(300, null))
        const start = 1_700_000_000_000
        let started = 0
        // Claims that waited for one that began after them.
        for (const at of [1_000, 400, 900, 1_000, 100, 1_100]) {
          yield* TestClock.setTime(start + at)
          started += (yield* claim("mail")).rows.length
          yield* end()
        }
        assert.strictEqual(started, 11)
        // A day back: what was written of the future is void.
        yield* TestClock.setTime(start - 86_400_000)
        started = 0
        for (let n = 0; n < 5; n++) {
          started += (yield* claim("mail")).rows.length
          yield* end()
          yield* TestClock.adjust("1 second")
        }
        assert.strictEqual(started, 50)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("leaves it to the end of a job to make room where the global limit is what keeps jobs", () =>
      Effect.gen(function* () {
        const { add, claim, end, queues } = yield* open
        yield* queues.limit("mail", { global: 2, rate: { limit: 3, period: "1 second" } })
        yield* add("mail", times(9, null))
        const first = yield* claim("mail")
        assert.deepStrictEqual([first.rows.length, first.retryIn], [2, undefined])
        yield* end()
        const second = yield* claim("mail")
        assert.deepStrictEqual([second.rows.length, millis(second.retryIn)], [1, 334])
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("limits per partition", () => {
    it.effect("serve every small tenant in the first round, however much one has", () =>
      Effect.gen(function* () {
        const { add, queues } = yield* open
        yield* queues.limit("mail", { perPartition: 100 })
        yield* add("mail", times(5_000, "huge"))
        yield* add("mail", numbered(50))
        const served = tally(yield* claimPartitions("mail", 51))
        assert.deepStrictEqual(served, tally(["huge", ...numbered(50)]))
        assert.deepStrictEqual(tally(yield* claimPartitions("mail", 60)), { huge: 60 })
      }).pipe(Effect.provide(fresh))
    )

    it.effect("serve all alike while all have work, whatever is wanted at a time", () =>
      Effect.gen(function* () {
        const { add, queues } = yield* open
        yield* queues.limit("mail", { perPartition: 1_000 })
        const tenants = ["", ...numbered(6)]
        yield* add(
          "mail",
          tenants.flatMap((tenant, n) => times(100 + n * 50, tenant === "" ? null : tenant))
        )
        const served = tally([])
        for (const demand of [1, 2, 3, 10, 7, 50, 1, 1, 33, 100, 4, 250, 2, 9]) {
          const claimed = yield* claimPartitions("mail", demand)
          assert.strictEqual(claimed.length, demand)
          for (const tenant of claimed) served[tenant] = (served[tenant] ?? 0) + 1
          const counts = tenants.map((tenant) => served[tenant] ?? 0)
          assert.isAtMost(Math.max(...counts) - Math.min(...counts), 1, `after ${demand}: ${counts.join(" ")}`)
        }
      }).pipe(Effect.provide(fresh))
    )

    it.effect("keep the order of priorities and ages within a partition", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        yield* queues.limit("mail", { perPartition: 1_000 })
        const [late] = yield* add("mail", ["a"], { priority: 5 })
        const [second, third] = yield* add("mail", ["a", "a"], { priority: 1 })
        const [first] = yield* add("mail", ["a"])
        yield* add("mail", times(3, "b"), { priority: 0 })
        const taken: Array<number | undefined> = []
        for (let n = 0; n < 7; n++) taken.push(...(yield* claim("mail", 1)).rows.map((row) => row.id))
        assert.deepStrictEqual(
          taken.filter((id) => [late, second, third, first].includes(id)),
          [first, second, third, late]
        )
      }).pipe(Effect.provide(fresh))
    )

    it.effect("hold for each partition, those without one together being one", () =>
      Effect.gen(function* () {
        const { add, claim, end, executing, queues } = yield* open
        yield* queues.limit("mail", { perPartition: 2 })
        yield* add("mail", [...times(10, "a"), "b", ...times(10, null), ...times(10, "c")])
        const first = yield* claim("mail")
        assert.deepStrictEqual(yield* executing, { "": 2, a: 2, b: 1, c: 2 })
        assert.isUndefined(first.retryIn)
        assert.strictEqual((yield* claim("mail")).rows.length, 0)
        yield* end(first.rows.slice(0, 1).map((row) => row.id))
        assert.strictEqual((yield* claim("mail")).rows.length <= 1, true)
        yield* end()
        yield* queues.limit("mail", { global: 4 })
        assert.strictEqual((yield* claim("mail")).rows.length, 4)
        yield* queues.limit("mail", { global: null, perPartition: 0 })
        yield* end()
        assert.strictEqual((yield* claim("mail")).rows.length, 0)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("never let a partition that is at its limit keep others", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        yield* queues.limit("mail", { perPartition: 1 })
        yield* add(
          "mail",
          numbered(300, "blocked").flatMap((tenant) => [tenant, tenant])
        )
        assert.strictEqual((yield* claim("mail")).rows.length, 300)
        yield* add("mail", ["z", "z", "a"], { priority: 9 })
        assert.deepStrictEqual((yield* claimPartitions("mail", 1)).length, 1)
        assert.deepStrictEqual((yield* claimPartitions("mail", 5)).length, 1)
        assert.strictEqual((yield* claim("mail")).rows.length, 0)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("find the one job without a partition behind thousands of others", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        yield* queues.limit("mail", { perPartition: 1 })
        yield* add("mail", times(3_000, "huge"))
        const [alone] = yield* add("mail", [null])
        yield* add("mail", times(3_000, "huge"))
        assert.deepStrictEqual(yield* claimPartitions("mail", 1), ["huge"])
        for (let n = 0; n < 20; n++) {
          const { retryIn, rows } = yield* claim("mail", 10)
          if (rows.length > 0) {
            assert.deepStrictEqual(
              rows.map((row) => row.id),
              [alone]
            )
            return
          }
          assert.isAtLeast(millis(retryIn) ?? 0, 20)
        }
        assert.fail("the job was not found")
      }).pipe(Effect.provide(fresh))
    )

    it.effect("stop asking for another claim when all has been looked at in vain", () =>
      Effect.gen(function* () {
        const { add, claim, queues } = yield* open
        yield* queues.limit("mail", { perPartition: 1 })
        yield* add("mail", times(2_000, "huge"))
        yield* claim("mail", 1)
        let claims = 0
        while ((yield* claim("mail", 10)).retryIn !== undefined) assert.isBelow(++claims, 20)
      }).pipe(Effect.provide(fresh))
    )
  })

  describe("a rate per partition", () => {
    it.effect("holds for each partition, and tells when the next may start", () =>
      Effect.gen(function* () {
        const { add, claim, end, queues } = yield* open
        yield* queues.limit("mail", { ratePerPartition: { limit: 2, period: "1 second" } })
        yield* add("mail", [...times(20, "a"), ...times(20, "b"), ...times(20, null), "c"])
        const claimed = Effect.gen(function* () {
          const { retryIn, rows } = yield* claim("mail")
          const tenants = tally(yield* partitionsOf(rows.map((row) => row.id)))
          yield* end()
          return [tenants, millis(retryIn)]
        })
        assert.deepStrictEqual(yield* claimed, [{ "": 2, a: 2, b: 2, c: 1 }, 500])
        assert.deepStrictEqual(yield* claimed, [{}, 500])
        yield* TestClock.adjust("400 millis")
        assert.deepStrictEqual(yield* claimed, [{}, 100])
        yield* TestClock.adjust("100 millis")
        assert.deepStrictEqual(yield* claimed, [{ "": 1, a: 1, b: 1 }, 500])
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* claimed, [{ "": 2, a: 2, b: 2 }, 500])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("goes together with all other limits", () =>
      Effect.gen(function* () {
        const { add, claim, end, executing, queues } = yield* open
        const second = { period: "1 second" } as const
        yield* queues.limit("mail", {
          global: 7,
          rate: { limit: 9, ...second },
          perPartition: 3,
          ratePerPartition: { limit: 4, ...second }
        })
        yield* add("mail", [...times(20, "a"), ...times(20, "b"), ...times(20, "c")])
        yield* claim("mail")
        assert.deepStrictEqual(yield* executing, { a: 3, b: 2, c: 2 })
        yield* end()
        const { retryIn } = yield* claim("mail")
        assert.deepStrictEqual(Object.values(yield* executing), [1, 1])
        assert.strictEqual(millis(retryIn), 112)
      }).pipe(Effect.provide(fresh))
    )

    it.effect("never lets partitions that have had their share keep others, however many they are", () =>
      Effect.gen(function* () {
        const { add, claim, end, queues } = yield* open
        yield* queues.limit("mail", { ratePerPartition: { limit: 1, period: "1 day" } })
        yield* add(
          "mail",
          numbered(2_000).flatMap((tenant) => [tenant, tenant])
        )
        for (let n = 0; n < 2; n++) {
          assert.strictEqual((yield* claim("mail")).rows.length, 1_000)
          yield* end()
        }
        yield* add("mail", ["s", "u"])
        const found: Array<string> = []
        let claims = 0
        while (found.length < 2) {
          const { retryIn, rows } = yield* claim("mail", 10)
          found.push(...(yield* partitionsOf(rows.map((row) => row.id))))
          // One claim looks at so many, and the next is not at once.
          assert.isAtLeast(millis(retryIn) ?? 0, 100)
          assert.isBelow(++claims, 6)
        }
        assert.sameMembers(found, ["s", "u"])
      }).pipe(Effect.provide(fresh))
    )

    it.effect("keeps no account of partitions that have started nothing for a period", () =>
      Effect.gen(function* () {
        const { add, claim, database, end, queues } = yield* open
        const count = Effect.map(
          database.run<{ readonly n: number }>("select count(*)::int as n from jobs.rate_buckets"),
          ([row]) => row?.n
        )
        yield* queues.limit("mail", { ratePerPartition: { limit: 1, period: "1 minute" } })
        yield* add("mail", numbered(300))
        yield* claim("mail")
        yield* end()
        assert.strictEqual(yield* count, 300)
        yield* add("mail", times(20, "last"))
        for (let n = 0; n < 20; n++) {
          yield* TestClock.adjust("1 minute")
          assert.strictEqual((yield* claim("mail")).rows.length, 1)
        }
        assert.strictEqual(yield* count, 1)
      }).pipe(Effect.provide(fresh))
    )
  })
})
