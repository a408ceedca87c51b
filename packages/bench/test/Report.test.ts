import { assert, describe, it } from "@effect/vitest"
import type { Figure, Measured, Spread } from "../src/Bench.ts"
import { rows, table } from "../src/Report.ts"

const at = (median: number): Spread => ({ min: median / 2, median, max: median * 2 })

const measured = (value: number, options: Partial<Figure>, baselines: Measured["baselines"] = []): Measured => ({
  figure: { name: "call", unit: "calls/s", higherIsBetter: true, target: null, ...options },
  who: "Coppice",
  subject: at(value),
  baselines
})

const unpromised = { ratioTarget: null, ratioMet: null }

describe("rows", () => {
  it("has one row per baseline, whose ratio is the subject's median over the baseline's", () => {
    const baselines = [["bare Effect", at(500)] as const, ["plain JavaScript", at(8000)] as const]
    const shared = { suite: "s", name: "call", value: 2000, unit: "calls/s", target: 2000, met: true, ...unpromised }
    assert.deepStrictEqual(rows("s", [measured(2000, { target: 2000 }, baselines)]), [
      { ...shared, baseline: "bare Effect", ratio: 4 },
      { ...shared, baseline: "plain JavaScript", ratio: 0.25 }
    ])
  })

  it("has one row without a ratio for a subject that ran alone", () => {
    assert.deepStrictEqual(rows("s", [measured(7, {})]), [
      {
        suite: "s",
        name: "call",
        value: 7,
        unit: "calls/s",
        baseline: null,
        ratio: null,
        target: null,
        met: null,
        ...unpromised
      }
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

  it("tells of each baseline whether the promised ratio to it is met", () => {
    const baselines = [["floor", at(3000)] as const, ["peer", at(2000)] as const, ["other", at(1)] as const]
    const verdicts = (higherIsBetter: boolean) =>
      rows("s", [measured(2000, { higherIsBetter, ratios: { floor: 0.6, peer: 1.2 } }, baselines)]).map(
        ({ baseline, ratioMet, ratioTarget }) => [baseline, ratioTarget, ratioMet]
      )
    assert.deepStrictEqual(verdicts(true), [
      ["floor", 0.6, true],
      ["peer", 1.2, false],
      ["other", null, null]
    ])
    assert.deepStrictEqual(verdicts(false), [
      ["floor", 0.6, false],
      ["peer", 1.2, true],
      ["other", null, null]
    ])
  })

  it("misses a promised ratio over a baseline that measured nothing", () => {
    const [row] = rows("s", [measured(7, { ratios: { weightless: 1 } }, [["weightless", at(0)]])])
    assert.isFalse(row?.ratioMet)
  })

  it("survives JSON with every field in place", () => {
    const [row] = rows("s", [measured(7, {})])
    const keys = ["suite", "name", "value", "unit", "baseline", "ratio", "target", "met", "ratioTarget", "ratioMet"]
    assert.deepStrictEqual(Object.keys(JSON.parse(JSON.stringify(row))), keys)
  })
})

describe("table", () => {
  it("is Markdown whose columns line up, one line per contender", () => {
    const fast = measured(2_400_000, { target: 2_000_000, ratios: { "bare Effect": 5 } }, [
      ["bare Effect", at(600_000)]
    ])
    const slow = measured(31.25, { name: "restart", unit: "us", higherIsBetter: false, target: 20 })
    assert.strictEqual(
      table([fast, slow]),
      [
        "| what    | who         |       min |    median |       max | unit    | ratio | target           |",
        "| ------- | ----------- | --------: | --------: | --------: | ------- | ----: | ---------------- |",
        "| call    | Coppice     | 1,200,000 | 2,400,000 | 4,800,000 | calls/s |       | >= 2,000,000 met |",
        "|         | bare Effect |   300,000 |   600,000 | 1,200,000 |         |   x 4 | >= x 5 MISSED    |",
        "| restart | Coppice     |      15.6 |      31.3 |      62.5 | us      |       | <= 20 MISSED     |"
      ].join("\n")
    )
  })
})
