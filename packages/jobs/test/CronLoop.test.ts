import { assert, layer } from "@effect/vitest"
import { Pglite, Postgres } from "@coppice/postgres"
import { Duration, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { bench, digest, type Made } from "./fixtures/cron.ts"

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

layer(Postgres.layerTest)("cron", (it) => {
  it.effect("a week across both changes of daylight saving fires exactly what it should", () =>
    Effect.gen(function* () {
      for (const [from, to, nightly] of [
        [
          "2026-03-26T00:00:00.000Z",
          "2026-04-02T00:00:00.000Z",
          ["26T01:30", "27T01:30", "28T01:30", "29T01:00", "30T00:30", "31T00:30"].map((at) => `2026-03-${at}:00.000Z`)
            .concat("2026-04-01T00:30:00.000Z")
        ],
        [
          "2026-10-22T00:00:00.000Z",
          "2026-10-29T00:00:00.000Z",
          ["22T00:30", "23T00:30", "24T00:30", "25T00:30", "26T01:30", "27T01:30", "28T01:30"].map(
            (at) => `2026-10-${at}:00.000Z`
          )
        ]
      ] as const) {
        const { loop, made } = yield* start(from)
        const berlin = { timeZone: "Europe/Berlin" }
        const fiber = yield* Effect.forkChild(
          yield* loop([
            digest("*/5 * * * *", { name: "often", ...berlin }),
            digest("30 2 * * *", { name: "nightly", ...berlin })
          ])
        )
        const before = performance.now()
        yield* Pglite.advance("7 days")
        yield* Effect.log(`a week took ${performance.now() - before} ms`)
        yield* Fiber.interrupt(fiber)
        const jobs = yield* made
        assert.deepStrictEqual(of(jobs, "nightly"), nightly)
        assert.deepStrictEqual(of(jobs, "often"), every(from, to, "5 minutes").slice(1))
      }
    })
  )
})
