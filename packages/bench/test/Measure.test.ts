import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { JobQueue } from "../src/jobs/Implementation.ts"
import { drain, drainRate, enqueueRate, medianAndTail, spaced, steady } from "../src/jobs/Measure.ts"

/** A queue in memory, whose jobs are settled `polls` questions after the last has started. */
const memory = (polls = 0) => {
  const waiting: Array<number> = []
  const batches: Array<number> = []
  let questions = 0
  const queue: JobQueue = {
    enqueue: (job) => Effect.sync(() => waiting.push(job)),
    enqueueMany: (jobs) =>
      Effect.sync(() => {
        batches.push(jobs.length)
        waiting.push(...jobs)
      }),
    work: (started) => Effect.forkScoped(Effect.sync(() => waiting.splice(0).forEach(started))),
    busy: Effect.sync(() => questions++ < polls)
  }
  return { queue, batches, asked: () => questions }
}

describe("enqueueRate", () => {
  it.live("enqueues in batches, and what is left in a smaller one", () =>
    Effect.gen(function* () {
      const { batches, queue } = memory()
      assert.isAbove(yield* enqueueRate(queue, 25, 10), 0)
      assert.deepStrictEqual(batches, [10, 10, 5])
    })
  )
})

describe("drainRate", () => {
  it.live("ends when the last job is settled, and not when it has started", () =>
    Effect.gen(function* () {
      const { asked, queue } = memory(3)
      assert.isAbove(yield* drain(queue, 20), 0)
      assert.strictEqual(asked(), 4)
    })
  )

  it.live("tells how many jobs have started", () =>
    Effect.gen(function* () {
      const { queue } = memory()
      const heard: Array<number> = []
      yield* enqueueRate(queue, 3, 10)
      yield* drainRate(queue, 3, (jobs) => heard.push(jobs))
      assert.deepStrictEqual(heard, [1, 2, 3])
    })
  )
})

describe("schedules", () => {
  it("leave at least 13 ms between jobs that are to find the queue idle, and differ", () => {
    const at = spaced(100)
    const gaps = at.slice(1).map((time, index) => time - (at[index] ?? 0))
    assert.strictEqual(at[0], 0)
    assert.isAtLeast(Math.min(...gaps), 13)
    assert.isAbove(new Set(gaps).size, 1)
  })

  it("are steady at so many a second", () => {
    const at = steady(1000, 2)
    assert.strictEqual(at.length, 2000)
    assert.deepStrictEqual(at.slice(0, 3), [0, 1, 2])
    assert.strictEqual(at.at(-1), 1999)
  })
})

describe("medianAndTail", () => {
  it("are the 50th and the 99th percentile", () => {
    assert.deepStrictEqual(medianAndTail(Array.from({ length: 100 }, (_, index) => index + 1)), [50, 99])
  })
})
