import { assert, describe, it } from "@effect/vitest"
import { countTests } from "../test-report.mjs"

const file = (status: string, ...tests: ReadonlyArray<string>) => ({
  status,
  assertionResults: tests.map((test) => ({ status: test }))
})

describe("counting tests", () => {
  it("adds up what passed and failed", () => {
    const testResults = [file("passed", "passed", "passed"), file("failed", "failed", "passed")]
    assert.deepStrictEqual(countTests({ numPassedTests: 3, numFailedTests: 1, testResults }, 1), {
      passed: 3,
      failed: 1
    })
  })

  it("counts a file that fails outside of its tests as one failure", () => {
    const testResults = [file("passed", "passed"), file("failed"), file("failed", "passed")]
    assert.deepStrictEqual(countTests({ numPassedTests: 2, numFailedTests: 0, testResults }, 1), {
      passed: 2,
      failed: 2
    })
  })

  it("never takes a run that failed for one that passed", () => {
    const report = { numPassedTests: 1, numFailedTests: 0, testResults: [file("passed", "passed")] }
    assert.deepStrictEqual(countTests(report, 0), { passed: 1, failed: 0 })
    assert.deepStrictEqual(countTests(report, 1), { passed: 1, failed: 1 })
    assert.deepStrictEqual(countTests(report, null), { passed: 1, failed: 1 })
  })
})
