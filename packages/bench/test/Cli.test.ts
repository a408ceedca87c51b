import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parse } from "../src/Cli.ts"
import { broken, tiny } from "./fixtures/tiny.ts"

describe("the arguments", () => {
  const suites = [tiny, broken]

  const refused = (...args: Array<string>) => Effect.map(Effect.flip(parse(args, suites)), (error) => error.message)

  it.effect("name a suite, or hear which there are", () =>
    Effect.gen(function* () {
      assert.include(yield* refused("huge"), 'there is no suite "huge"')
      assert.include(yield* refused("huge"), "suites: tiny, broken")
      assert.include(yield* refused(), "which suite is to be measured?")
      assert.include(yield* refused("tiny", "broken"), "one suite at a time")
    })
  )

  it.effect("are refused when nothing can come of them", () =>
    Effect.gen(function* () {
      assert.include(yield* refused("tiny", "--colour"), "--colour")
      assert.include(yield* refused("tiny", "--json"), "--json")
      for (const rounds of ["0", "-1", "1.5", "many", ""]) {
        assert.include(yield* refused("tiny", `--rounds=${rounds}`), "--rounds is a whole number from 1 up")
      }
      assert.include(yield* refused("tiny", "--case", "elf"), 'tiny has no case with "elf" in its name')
      assert.include(yield* refused("tiny", "--sample", "ten: nobody"), 'tiny has no sample "ten: nobody"')
    })
  )

  it.effect("are refused before anything is measured when the JSON could not be written", () =>
    Effect.gen(function* () {
      assert.include(yield* refused("tiny", "--json", "/no/such/folder/rows.json"), "/no/such/folder/rows.json")
      assert.include(yield* refused("tiny", "--json", tmpdir()), tmpdir())
    })
  )

  it.effect("are refused when they set what is no size, or to what is no whole number", () =>
    Effect.gen(function* () {
      for (const text of ["things", "things=", "things=many", "things=-1", "thongs=1", "constructor=1"]) {
        assert.include(yield* refused("tiny", `--set=${text}`), `--set takes <size>=<whole number>, not "${text}"`)
      }
      assert.include(yield* refused("tiny", "--set=thongs=1"), "sizes: things=10")
      assert.include(yield* refused("broken", "--set=things=1"), "sizes: none")
    })
  )

  it.effect("choose sizes", () =>
    Effect.gen(function* () {
      const command = yield* parse(["tiny", "--set", "things=20"], suites)
      assert.deepStrictEqual(command.suite.sizes, { things: 20 })
      assert.deepStrictEqual(tiny.sizes, { things: 10 })
    })
  )

  it.effect("choose cases and rounds", () =>
    Effect.gen(function* () {
      const command = yield* parse(["tiny", "--case", "en", "--rounds", "3"], suites)
      if (command._tag !== "Run") return assert.fail("a run was asked for")
      assert.strictEqual(command.suite.rounds, 3)
      assert.deepStrictEqual(command.suite.cases, [{ ...tiny.cases[0]!, rounds: 3 }])
    })
  )
})

describe("the process", () => {
  const bench = (...args: ReadonlyArray<string>) =>
    spawnSync(
      process.execPath,
      ["--expose-gc", "--conditions=@coppice/source", join(import.meta.dirname, "fixtures/main.ts"), ...args],
      { encoding: "utf8" }
    )

  it("prints a table, writes rows, and measures memory in processes of their own", () => {
    const folder = mkdtempSync(join(tmpdir(), "coppice-bench-"))
    try {
      const { status, stdout } = bench("tiny", "--json", join(folder, "rows.json"))
      assert.strictEqual(status, 0)
      assert.match(stdout, /\| ten +\| ours +\| +10 \| +10 \| +10 \| things \| +\| >= 10 met +\|/)

      const rows = JSON.parse(readFileSync(join(folder, "rows.json"), "utf8"))
      const exact = { suite: "tiny", unit: "things", target: 10, ratioTarget: null, ratioMet: null }
      assert.deepStrictEqual(rows.slice(0, 2), [
        { ...exact, name: "ten", value: 10, baseline: "theirs", ratio: 2.5, met: true },
        { ...exact, name: "nine", value: 9, baseline: null, ratio: null, met: false }
      ])
      assert.isAbove(rows[2].value, 50)
      assert.isBelow(rows[2].value, 500)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it("gives every sample the sizes and what the suite shares, and says what a reader has to know", () => {
    const { stdout } = bench("tiny", "--case", "shared", "--set", "things=30")
    assert.match(stdout, /things=30/)
    assert.match(stdout, /\| shared +\| ours +\| +37 \|/)
    assert.include(stdout, "A thing is a thing.")
    assert.match(bench("tiny", "--case", "sized", "--set", "things=30").stdout, /\| sized +\| ours +\| +30 \|/)
  })

  it("ends with 1 and the reason when what the suite shares cannot be had", () => {
    const { status, stderr } = bench("unavailable")
    assert.strictEqual(status, 1)
    assert.include(stderr, "the well is dry")
  })

  it("ends with 2 and the list of suites when the suite is unknown", () => {
    const { status, stderr, stdout } = bench("huge")
    assert.deepStrictEqual({ status, stdout }, { status: 2, stdout: "" })
    assert.include(stderr, "suites: tiny, broken")
  })

  it("ends with 1 and the sample's own words when a sample fails", () => {
    const { status, stderr } = bench("broken")
    assert.strictEqual(status, 1)
    assert.include(stderr, "silence: mute")
    assert.include(stderr, "I have nothing to say")
  })
})
