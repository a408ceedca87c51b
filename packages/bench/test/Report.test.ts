import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Case, Measured, Spread } from "../src/Bench.ts"
import { rows, table } from "../src/Report.ts"

const contender = (name: string) => ({ name, sample: Effect.succeed(0) })
const at = (median: number): Spread => ({ min: median / 2, median, max: median * 2 })

const measured = (value: number, options: Partial<Case>, baselines: Measured["baselines"] = []): Measured => ({
  case: {
    name: "call",
    unit: "calls/s",
    higherIsBetter: true,
    target: null,
    subject: contender("Coppice"),
    baselines: baselines.map(([name]) => contender(name)),
    ...options
  },
  subject: at(value),
  baselines
})

describe("rows", () => {
  it("has one row per baseline, whose ratio is the subject's median over the baseline's", () => {
    const baselines = [["bare Effect", at(500)] as const, ["plain JavaScript", at(8000)] as const]
    const shared = { suite: "s", name: "call", value: 2000, unit: "calls/s", target: 2000, met: true }
    assert.deepStrictEqual(rows("s", [measured(2000, { target: 2000 }, baselines)]), [
      { ...shared, baseline: "bare Effect", ratio: 4 },
      { ...shared, baseline: "plain JavaScript", ratio: 0.25 }
    ])
  })

  it("has one row without a ratio for a subject that ran alone", () => {
    assert.deepStrictEqual(rows("s", [measured(7, {})]), [
      { suite: "s", name: "call", value: 7, unit: "calls/s", baseline: null, ratio: null, target: null, met: null }
    ])
  })

  it("has no ratio over a baseline that measured nothing", () => {
    const [row] = rows("s", [measured(7, {}, [["weightless", at(0)]])])
    assert.strictEqual(row?.baseline, "weightless")
    assert.isNull(row?.ratio)
  })

  it("misses a target from the side that is worse", () => {
    const met = (value: number, higherIsBetter: boolean) =>
      rows("s", [measured(value, { higherIsBetter, target: 20 })])[0]?.met
    assert.deepStrictEqual([met(19, true), met(20, true), met(21, true)], [false, true, true])
    assert.deepStrictEqual([met(19, false), met(20, false), met(21, false)], [true, true, false])
  })

  it("survives JSON with every field in place", () => {
    const [row] = rows("s", [measured(7, {})])
    const keys = ["suite", "name", "value", "unit", "baseline", "ratio", "target", "met"]
    assert.deepStrictEqual(Object.keys(JSON.parse(JSON.stringify(row))), keys)
  })
})

describe("table", () => {
  it("is Markdown whose columns line up, one line per contender", () => {
    const fast = measured(2_400_000, { target: 2_000_000 }, [["bare Effect", at(600_000)]])
    const slow = measured(31.25, { name: "restart", unit: "us", higherIsBetter: false, target: 20 })
    assert.strictEqual(
      table([fast, slow]),
      [
        "| what    | who         |       min |    median |       max | unit    | ratio | target           |",
        "| ------- | ----------- | --------: | --------: | --------: | ------- | ----: | ---------------- |",
        "| call    | Coppice     | 1,200,000 | 2,400,000 | 4,800,000 | calls/s |       | >= 2,000,000 met |",
        "|         | bare Effect |   300,000 |   600,000 | 1,200,000 |         |   x 4 |                  |",
        "| restart | Coppice     |      15.6 |      31.3 |      62.5 | us      |       | <= 20 MISSED     |"
      ].join("\n")
    )
  })
})
