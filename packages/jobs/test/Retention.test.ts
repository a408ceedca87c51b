import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { Retention } from "@coppice/jobs"

describe("Retention", () => {
  it.effect("has a default for each state that is left out, and no limit for what a rule leaves out", () =>
    Effect.gen(function* () {
      const day = Duration.toMillis("1 day")
      assert.deepStrictEqual(yield* Retention.limits(), {
        completed: { ageMillis: 7 * day, count: 1_000_000 },
        cancelled: { ageMillis: 7 * day, count: 100_000 },
        discarded: { ageMillis: 30 * day, count: 100_000 }
      })
      assert.deepStrictEqual(
        yield* Retention.limits({ completed: { age: "1 day" }, discarded: {}, cancelled: undefined }),
        {
          completed: { ageMillis: day, count: Number.POSITIVE_INFINITY },
          cancelled: { ageMillis: 7 * day, count: 100_000 },
          discarded: { ageMillis: Number.POSITIVE_INFINITY, count: Number.POSITIVE_INFINITY }
        }
      )
    })
  )

  it.effect("refuses what cannot be followed, and says where it is", () =>
    Effect.gen(function* () {
      const invalid: ReadonlyArray<readonly [Retention.Retention, string]> = [
        [{ completed: { count: -1 } }, "completed.count"],
        [{ completed: { count: 1.5 } }, "completed.count"],
        [{ cancelled: { count: Number.NaN } }, "cancelled.count"],
        [{ discarded: { age: "-1 days" } }, "discarded.age"],
        // A caller without types.
        [{ discarded: { age: "a week" as "1 day" } }, "discarded.age"]
      ]
      for (const [retention, path] of invalid) {
        const error = yield* Effect.flip(Retention.limits(retention))
        assert.strictEqual(error._tag, "InvalidRetention")
        assert.strictEqual(error.path, path)
        assert.include(error.message, path)
      }
    })
  )
})
