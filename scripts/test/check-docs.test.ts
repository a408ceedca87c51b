import { assert, describe, it } from "@effect/vitest"
import { join } from "node:path"
import { checkDocs } from "../check-docs.mjs"
import { folderWith } from "./folder.ts"

const check = async (name: string, ...lines: ReadonlyArray<string>) => {
  const folder = folderWith({ [name]: lines.join("\n") })
  const { problems, ...counts } = await checkDocs([join(folder, name)])
  return { ...counts, problems: problems.map((problem) => problem.replace(/^.*coppice-test-\w+\//, "")) }
}

describe("fences of Markdown", () => {
  it("are programs that compile, with the packages they import", async () => {
    const result = await check(
      "page.md",
      "# Page",
      "```ts",
      `import { Effect } from "effect"`,
      "export const one: Effect.Effect<number> = Effect.succeed(1)",
      "```",
      "```sh",
      "not typescript",
      "```"
    )
    assert.deepStrictEqual(result, { fences: 1, asserted: 0, problems: [] })
  })

  it("report an error at its line and column in the page, also inside a list", async () => {
    const { problems } = await check(
      "page.md",
      "# Page",
      "",
      "- First:",
      "  ```ts",
      "  export const right = 1",
      "  export const wrong: string = 1",
      "  ```"
    )
    assert.deepStrictEqual(problems, ["page.md:6:16 TS2322: Type 'number' is not assignable to type 'string'."])
  })

  it("are strict, but may declare what they do not use", async () => {
    const { problems } = await check(
      "page.md",
      "```ts",
      "const unused = 1",
      "export const first = (names: ReadonlyArray<string>): string => names[0]",
      "```"
    )
    assert.lengthOf(problems, 1)
    assert.include(problems[0], "Type 'string | undefined' is not assignable to type 'string'.")
  })

  it("cannot be left out", async () => {
    const { problems } = await check("page.md", "```ts ignore", "const one = 1", "```")
    assert.deepStrictEqual(problems, ["page.md:1 `ignore` is not known here; every ts fence compiles"])
  })

  it("share nothing but what they import from a fence with a name", async () => {
    const named = ["```ts file=one.ts", "export const one = 1", "```"]
    assert.deepStrictEqual(
      (await check("page.md", ...named, "```ts", `import { one } from "./one.ts"`, "export const two = one + 1", "```"))
        .problems,
      []
    )
    assert.deepStrictEqual((await check("page.md", ...named, "```ts", "export const two = one + 1", "```")).problems, [
      "page.md:5:20 TS2304: Cannot find name 'one'."
    ])
    assert.deepStrictEqual((await check("page.md", ...named, ...named)).problems, [
      "page.md:4 a second fence called one.ts"
    ])
  })

  it("may show what does not compile, if they say what the compiler says", async () => {
    const show = (text: string) =>
      check("page.md", "```ts", `// @expect-error-message: ${text}`, "const one: string = 1", "```")
    assert.deepStrictEqual((await show("not assignable to type 'string'")).problems, [])
    assert.deepStrictEqual((await show("something else")).problems, [
      "page.md:3:7 TS2322: Type 'number' is not assignable to type 'string'.",
      "page.md:2 no error on line 3 says: something else"
    ])
  })

  it("are not looked for inside other fences", async () => {
    const result = await check("page.md", "````md", "```ts", "nonsense(", "```", "````")
    assert.deepStrictEqual(result, { fences: 0, asserted: 0, problems: [] })
  })
})

describe("fences of docstrings", () => {
  it("compile, and report errors at their place in the source", async () => {
    const result = await check(
      "File.ts",
      "/**",
      " * Adds one.",
      " *",
      " * ```ts",
      " * export const right = 1",
      " * export const wrong: string = 1",
      " * ```",
      " */",
      "export const addOne = (n: number): number => n + 1"
    )
    assert.deepStrictEqual(result, {
      fences: 1,
      asserted: 0,
      problems: ["File.ts:6:17 TS2322: Type 'number' is not assignable to type 'string'."]
    })
  })
})

describe("results in fences", () => {
  it("are asserted by running the program", async () => {
    const result = await check(
      "page.md",
      "```ts",
      `import { Effect, Option } from "effect"`,
      "const sum = 1 + 1 // => 2",
      `Option.some(sum) // => Option.some(2)`,
      "console.log([1, 2].map((n) => n * 2)) // => [2, 4]",
      "await Effect.runPromise(",
      "  Effect.gen(function* () {",
      "    yield* Effect.succeed({ a: 1 }) // => { a: 1 }",
      "  })",
      ")",
      "```"
    )
    assert.deepStrictEqual(result, { fences: 1, asserted: 4, problems: [] })
  })

  it("are reported when they differ, and when the program never gets there", async () => {
    const wrong = await check("page.md", "```ts", "const sum = 1 + 1 // => 3", "```")
    assert.lengthOf(wrong.problems, 1)
    assert.match(wrong.problems[0] ?? "", /^page\.md:2 does not give what it says:/)
    assert.include(wrong.problems[0], "2 !== 3")
    const unreached = await check(
      "page.md",
      "```ts",
      "export const later = () => {",
      "  String(1) // => '1'",
      "}",
      "```"
    )
    assert.include(unreached.problems[0], "1 of 1 results were never reached")
  })
})
