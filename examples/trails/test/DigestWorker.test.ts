import { assert, describe, it } from "@effect/vitest"
import { DateTime } from "effect"
import { dayBefore } from "../src/jobs/DigestWorker.ts"

describe("DigestWorker", () => {
  it("is about the day before, from midnight to midnight in its time zone, also when clocks change", () => {
    for (const [at, timeZone, name, from, until] of [
      ["2026-11-23T03:00:00Z", "UTC", "2026-11-22", "2026-11-22T00:00:00.000Z", "2026-11-23T00:00:00.000Z"],
      ["2026-03-01T03:00:00Z", "UTC", "2026-02-28", "2026-02-28T00:00:00.000Z", "2026-03-01T00:00:00.000Z"],
      ["2026-11-22T18:00:00Z", "Asia/Tokyo", "2026-11-22", "2026-11-21T15:00:00.000Z", "2026-11-22T15:00:00.000Z"],
      ["2026-03-30T01:00:00Z", "Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00.000Z", "2026-03-29T22:00:00.000Z"],
      ["2026-10-26T02:00:00Z", "Europe/Berlin", "2026-10-25", "2026-10-24T22:00:00.000Z", "2026-10-25T23:00:00.000Z"]
    ] as const) {
      const day = dayBefore(DateTime.makeUnsafe(at), timeZone)
      assert.deepStrictEqual(
        [day.name, DateTime.formatIso(day.from), DateTime.formatIso(day.until)],
        [name, from, until],
        at
      )
    }
  })
})
