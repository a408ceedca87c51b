import { assert, describe, it } from "@effect/vitest"
import { said, say } from "../src/Isolated.ts"

describe("a sample", () => {
  it("is heard as it was said", () => {
    assert.deepStrictEqual(said(say(0.1)), [0.1])
    assert.deepStrictEqual(said(say([12, 1e-7, 3.5e21])), [12, 1e-7, 3.5e21])
  })

  it("is heard among what the implementation prints", () => {
    assert.deepStrictEqual(said(`12 jobs\n${say([1, 2])}\nbye 4\n`), [1, 2])
  })

  it("is not made up from what is no number", () => {
    for (const output of ["", "12\n", say([1, Number.NaN]), say([])]) assert.isUndefined(said(output))
  })
})
