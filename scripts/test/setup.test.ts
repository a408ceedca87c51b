import { assert, describe, it } from "@effect/vitest"
import { isTooOld, minimumNode } from "../node-version.mjs"
import { missingPackages } from "../setup.mjs"
import { folderWith } from "./folder.ts"

const lock = (packages: Record<string, unknown>) =>
  JSON.stringify({ lockfileVersion: 3, packages: { "": {}, ...packages } })

const missing = (wanted: Record<string, unknown>, installed?: Record<string, unknown>) =>
  missingPackages(
    folderWith({
      "package-lock.json": lock(wanted),
      ...(installed === undefined ? {} : { "node_modules/.package-lock.json": lock(installed) })
    })
  )

const effect = { version: "4.1.0", integrity: "sha512-a" }

describe("installing on first use", () => {
  it("happens when nothing is installed", () => {
    assert.deepStrictEqual(missing({ "node_modules/effect": effect }), ["node_modules/effect"])
  })

  it("does not happen when what is installed is what the lockfile asks for, or more", () => {
    const extra = { "node_modules/extra": { version: "1.0.0" } }
    assert.deepStrictEqual(missing({ "node_modules/effect": effect }, { "node_modules/effect": effect }), [])
    assert.deepStrictEqual(missing({ "node_modules/effect": effect }, { "node_modules/effect": effect, ...extra }), [])
  })

  it("happens when a package is new, has another version or other contents", () => {
    const wanted = { "node_modules/effect": effect, "packages/jobs": { version: "0.1.0" } }
    assert.deepStrictEqual(missing(wanted, { "node_modules/effect": effect }), ["packages/jobs"])
    for (const change of [{ version: "4.0.0" }, { integrity: "sha512-b" }]) {
      assert.deepStrictEqual(
        missing({ "node_modules/effect": effect }, { "node_modules/effect": { ...effect, ...change } }),
        ["node_modules/effect"]
      )
    }
  })

  it("does not wait for optional packages, which are for other platforms", () => {
    assert.deepStrictEqual(missing({ "node_modules/win32": { ...effect, optional: true } }), [])
  })
})

describe("the oldest Node", () => {
  it("is the one that engines names", () => {
    assert.strictEqual(minimumNode, "22.19")
  })

  it.each([
    ["v9.11.2", true],
    ["v20.20.2", true],
    ["v22.18.99", true],
    ["v22.19.0", false],
    ["v22.20.1", false],
    ["v24.0.0", false]
  ] as const)("is compared part by part: %s", (version, tooOld) => {
    assert.strictEqual(isTooOld(version), tooOld)
  })
})
