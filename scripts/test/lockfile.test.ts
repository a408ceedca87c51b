import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { missingEntries } from "../lockfile.mjs"

describe("package-lock.json", () => {
  it("names every optional package, so that npm ci works on every platform; npm run lockfile adds them", () => {
    const { packages } = JSON.parse(readFileSync(new URL("../../package-lock.json", import.meta.url), "utf8"))
    assert.deepStrictEqual(Object.keys(missingEntries(packages)), [])
  })
})

describe("completing a lockfile", () => {
  const wanting = (...names: ReadonlyArray<string>) => ({
    "": {},
    "node_modules/tool": { dev: true, optionalDependencies: Object.fromEntries(names.map((name) => [name, "1.2.3"])) }
  })

  it("takes the version from the package that wants it and the platform from the name", () => {
    assert.deepStrictEqual(missingEntries(wanting("@tool/binding-linux-arm64-musl", "@tool/darwin-x64")), {
      "node_modules/@tool/binding-linux-arm64-musl": {
        version: "1.2.3",
        cpu: ["arm64"],
        dev: true,
        libc: ["musl"],
        optional: true,
        os: ["linux"]
      },
      "node_modules/@tool/darwin-x64": { version: "1.2.3", cpu: ["x64"], dev: true, optional: true, os: ["darwin"] }
    })
  })

  it("leaves alone what is there, at the root or beside the package that wants it", () => {
    const name = "@tool/darwin-x64"
    assert.deepStrictEqual(missingEntries({ ...wanting(name), [`node_modules/${name}`]: {} }), {})
    assert.deepStrictEqual(missingEntries({ ...wanting(name), [`node_modules/tool/node_modules/${name}`]: {} }), {})
  })

  it("refuses a name that does not say for which platform it is", () => {
    assert.throws(() => missingEntries(wanting("optional-thing")), /does not say for which platform/)
  })
})
