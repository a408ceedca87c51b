import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { afterEach, vi } from "vitest"
import {
  type Case,
  type Contender,
  elapsed,
  microsPerLap,
  percentile,
  perSecond,
  run,
  size,
  Sizes,
  spread
} from "../src/Bench.ts"

const never = () => Effect.die(new Error("no process of its own was asked for"))

describe("spread", () => {
  it("takes the middle sample of an odd number, whatever their order", () => {
    assert.deepStrictEqual(spread([9, 1, 5]), { min: 1, median: 5, max: 9 })
  })

  it("takes the mean of the two middle samples of an even number", () => {
    assert.deepStrictEqual(spread([10, 4, 1, 2]), { min: 1, median: 3, max: 10 })
  })
})

describe("percentile", () => {
  it("is the smallest sample that the given share of them does not exceed, whatever their order", () => {
    const samples = Array.from({ length: 200 }, (_, index) => 200 - index)
    assert.deepStrictEqual(
      [0, 50, 99, 100].map((percent) => percentile(samples, percent)),
      [1, 100, 198, 200]
    )
    assert.strictEqual(percentile([7], 99), 7)
  })

  it("is no number when there is no sample", () => {
    assert.isNaN(percentile([], 50))
  })
})

describe("size", () => {
  it.effect("is the number of the suite that runs", () =>
    Effect.gen(function* () {
      const jobs = yield* Effect.provideService(size("jobs"), Sizes, { jobs: 3 })
      assert.strictEqual(jobs, 3)
    })
  )

  it.effect("is a defect under a name that the suite does not declare", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(size("jbos"))
      assert.include(String(exit), 'no size "jbos"')
    })
  )
})

describe("run", () => {
  /** Says its name to `log` and samples 1, 2, 3, ... */
  const contender = (name: string, log: Array<string>): Contender => {
    let taken = 0
    return {
      name,
      sample: Effect.sync(() => {
        log.push(name)
        return ++taken
      })
    }
  }
  const entry = (log: Array<string>): Case => ({
    name: "count",
    unit: "samples",
    higherIsBetter: true,
    target: null,
    subject: contender("A", log),
    baselines: [contender("B", log), contender("C", log)]
  })

  it.effect("lets the contenders take turns, and another begin in each round after the warm-up", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      yield* run({ name: "turns", rounds: 3, cases: [entry(log)] }, never)
      assert.strictEqual(log.join(""), ["ABC", "ABC", "ABC", "BCA", "CAB"].join(""))
    })
  )

  it.effect("keeps the samples of the warm-up out of the result", () =>
    Effect.gen(function* () {
      const [measured] = yield* run({ name: "warm", rounds: 3, cases: [entry([])] }, never)
      assert.deepStrictEqual(measured?.subject, { min: 3, median: 4, max: 5 })
      assert.deepStrictEqual(measured?.baselines, [
        ["B", { min: 3, median: 4, max: 5 }],
        ["C", { min: 3, median: 4, max: 5 }]
      ])
    })
  )

  it.effect("tells every figure of a sample that says several", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const pair = (name: string, first: number): Contender => ({ name, sample: Effect.succeed([first, first * 10]) })
      const { subject: _subject, baselines: _baselines, ...figure } = entry(log)
      const several: Case = {
        ...figure,
        ratios: { B: 2 },
        subject: pair("A", 1),
        baselines: [pair("B", 2)],
        also: [{ name: "tenfold", unit: "samples", higherIsBetter: false, target: 5 }]
      }
      const measured = yield* run({ name: "several", rounds: 1, cases: [several] }, never)
      assert.deepStrictEqual(
        measured.map(({ baselines, figure, subject }) => [
          figure.name,
          figure.ratios,
          subject.median,
          baselines[0]?.[1].median
        ]),
        [
          ["count", { B: 2 }, 1, 2],
          ["tenfold", undefined, 10, 20]
        ]
      )
    })
  )

  it.effect("takes as many samples as the case says, where it says", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      yield* run({ name: "few", rounds: 9, cases: [{ ...entry(log), isolated: true, rounds: 2 }] }, (_, { name }) =>
        Effect.sync(() => log.push(name))
      )
      assert.strictEqual(log.join(""), "ABCBCA")
    })
  )

  it.effect("takes every sample of an isolated case elsewhere, without a warm-up", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const elsewhere: Array<string> = []
      const isolate = (entry: Case, contender: Contender) =>
        Effect.sync(() => elsewhere.push(`${entry.name} of ${contender.name}`))
      const suite = { name: "isolated", rounds: 1, cases: [{ ...entry(log), isolated: true }] }
      const [measured] = yield* run(suite, isolate)
      assert.deepStrictEqual(elsewhere, ["count of A", "count of B", "count of C"])
      assert.deepStrictEqual(log, [])
      assert.strictEqual(measured?.subject.median, 1)
    })
  )
})

describe("the clock", () => {
  afterEach(() => void vi.restoreAllMocks())

  /** The machine's clock shows these milliseconds, one after the other. */
  const clockShows = (...millis: Array<number>) =>
    vi.spyOn(performance, "now").mockImplementation(() => millis.shift() ?? Number.NaN)

  it.effect("gives the milliseconds an effect takes", () =>
    Effect.gen(function* () {
      clockShows(100, 350)
      assert.strictEqual(yield* elapsed(Effect.void), 250)
    })
  )

  it.effect("gives operations per second", () =>
    Effect.gen(function* () {
      clockShows(0, 500)
      assert.strictEqual(yield* perSecond(1000, Effect.void), 2000)
    })
  )

  it.effect("gives the median of laps in microseconds", () =>
    Effect.gen(function* () {
      clockShows(10, 12, 13, 23)
      const threeLaps = (lap: () => void) => Effect.sync(() => [lap(), lap(), lap()])
      assert.strictEqual(yield* microsPerLap(threeLaps), 2000)
    })
  )
})
