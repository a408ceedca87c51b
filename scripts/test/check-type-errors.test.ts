import { assert, describe, it } from "@effect/vitest"
import { join } from "node:path"
import { checkTypeErrors } from "../check-type-errors.mjs"
import { folderWith } from "./folder.ts"

const check = (...lines: ReadonlyArray<string>) => {
  const folder = folderWith({ "package.json": `{ "type": "module" }`, "a.types.ts": lines.join("\n") })
  const { expected, problems } = checkTypeErrors([join(folder, "a.types.ts")])
  return { expected, problems: problems.map((problem) => problem.replace(/^.*a\.types\.ts:/, "")) }
}

describe("expected compile errors", () => {
  it("are met by a message that contains the text, however its white space is laid out", () => {
    assert.deepStrictEqual(
      check(
        `// @expect-error-message: Type 'number'   is not assignable to type 'string'.`,
        `export const a: string = 1`,
        `export const works: number = 1`
      ),
      { expected: 1, problems: [] }
    )
  })

  it("may stand anywhere in the statement that begins on the next line", () => {
    assert.deepStrictEqual(
      check(
        `const f = (x: { a: { b: string } }) => x`,
        `// @expect-error-message: not assignable to type 'string'`,
        `// A word about why.`,
        `f({`,
        `  a: {`,
        `    b: 1`,
        `  }`,
        `})`,
        `f({`,
        `  // @expect-error-message: not assignable to type 'string'`,
        `  a: { b: 1 }`,
        `})`
      ),
      { expected: 2, problems: [] }
    )
  })

  it("are reported when nothing on the next line says so, together with what is said instead", () => {
    const { problems } = check(`// @expect-error-message: Service 'Cache' is missing`, `export const a: string = 1`)
    assert.deepStrictEqual(problems, [
      "2 unexpected TS2322: Type 'number' is not assignable to type 'string'.",
      "1 no error on line 2 says: Service 'Cache' is missing"
    ])
  })

  it("are reported when the code compiles, and when they name no text", () => {
    assert.deepStrictEqual(check(`// @expect-error-message: anything`, `export const a = 1`).problems, [
      "1 no error on line 2 says: anything"
    ])
    assert.deepStrictEqual(check(`// @expect-error-message:`, `export const a: string = 1`).problems, [
      "2 unexpected TS2322: Type 'number' is not assignable to type 'string'.",
      "1 say what the message contains"
    ])
  })

  it("do not hide an error elsewhere in the file", () => {
    const { problems } = check(
      `// @expect-error-message: is not assignable`,
      `export const a: string = 1`,
      `export const b: string = 2`
    )
    assert.deepStrictEqual(problems, ["3 unexpected TS2322: Type 'number' is not assignable to type 'string'."])
  })
})
