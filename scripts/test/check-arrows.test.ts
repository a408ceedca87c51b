import { assert, describe, it } from "@effect/vitest"
import { findViolations } from "../check-arrows.mjs"
import { folderWith } from "./folder.ts"

const manifest = (fields: Record<string, unknown> = {}) => JSON.stringify(fields)

/** What the checker says about one source file of a package. */
const inSource = (name: string, text: string) =>
  findViolations(folderWith({ [`packages/${name}/package.json`]: manifest(), [`packages/${name}/src/File.ts`]: text }))

const inTest = (name: string, text: string) =>
  findViolations(
    folderWith({ [`packages/${name}/package.json`]: manifest(), [`packages/${name}/test/File.test.ts`]: text })
  )

describe("arrows between packages", () => {
  it("lets a package import what the table gives it", () => {
    assert.deepStrictEqual(inSource("jobs", `import { Supervisor } from "@coppice/supervision"`), [])
    assert.deepStrictEqual(inSource("jobs", `import * as Pg from "@effect/sql-pg/PgClient"`), [])
    assert.deepStrictEqual(inSource("bench", `import * as Jobs from "@coppice/jobs"\nimport "anything"`), [])
  })

  it("refuses an arrow that points down the table, with file, line and what is allowed", () => {
    assert.deepStrictEqual(inSource("supervision", `\nimport { Job } from "@coppice/jobs/Job"`), [
      "packages/supervision/src/File.ts:2 imports @coppice/jobs/Job: of the workspace, supervision may import nothing"
    ])
  })

  it.each([
    `import type { Job } from "@coppice/jobs"`,
    `export * from "@coppice/jobs"`,
    `export { Job } from "@coppice/jobs"`,
    `export const jobs = import("@coppice/jobs")`,
    `export type Job = import("@coppice/jobs").Job`
  ])("sees %s", (text) => {
    assert.lengthOf(inSource("domain", text), 1)
  })

  it("is not misled by imports in comments and strings", () => {
    assert.deepStrictEqual(
      inSource(
        "domain",
        `/** import "@coppice/jobs" */\n// import "@coppice/jobs"\nexport const a = 'import "@coppice/jobs"'`
      ),
      []
    )
  })

  it("lets tests import other packages, but not their internals", () => {
    assert.deepStrictEqual(inTest("domain", `import { Postgres } from "@coppice/postgres"`), [])
    assert.deepStrictEqual(inTest("domain", `import "@coppice/postgres/internal/server"`), [
      "packages/domain/test/File.test.ts:1 imports @coppice/postgres/internal/server: src/internal/ is private to its package"
    ])
  })

  it("refuses relative imports that leave the package, and sources that reach out of src", () => {
    assert.lengthOf(inTest("domain", `import "../../postgres/src/index.ts"`), 1)
    assert.lengthOf(inSource("domain", `import "../test/Fixture.ts"`), 1)
    assert.deepStrictEqual(inTest("domain", `import "../src/internal/rules.ts"`), [])
  })

  it("refuses a package that imports itself by name, and one that the table does not know", () => {
    assert.lengthOf(inSource("domain", `import "@coppice/domain"`), 1)
    assert.lengthOf(inSource("utils", ``), 1)
  })
})

describe("other packages", () => {
  it("keeps domain to effect alone", () => {
    assert.deepStrictEqual(inSource("domain", `import { Model } from "effect/schema"`), [])
    assert.lengthOf(inSource("domain", `import { readFileSync } from "node:fs"`), 1)
    assert.lengthOf(inSource("domain", `import * as PgClient from "@effect/sql-pg/PgClient"`), 1)
  })

  it.each(["effect/sql", "effect/http", "effect/persistence", "effect/testing", "effect/LayerMap", "node:process"])(
    "keeps supervision from %s",
    (specifier) => {
      assert.lengthOf(inSource("supervision", `import * as X from "${specifier}"`), 1)
    }
  )

  it("lets supervision import stable modules by name, and nothing unstable through the root", () => {
    assert.deepStrictEqual(inSource("supervision", `import { Effect, type Layer, pipe } from "effect"`), [])
    assert.deepStrictEqual(inSource("supervision", `import * as Effect from "effect/Effect"`), [])
    assert.deepStrictEqual(inSource("supervision", `import { Effect, LayerRef } from "effect"`), [
      "packages/supervision/src/File.ts:1 imports effect: effect does not mark LayerRef as stable"
    ])
    assert.lengthOf(inSource("supervision", `import * as Everything from "effect"`), 1)
  })

  it("lets the tests of supervision use effect/testing", () => {
    assert.deepStrictEqual(inTest("supervision", `import { TestClock } from "effect/testing"`), [])
  })
})

describe("manifests", () => {
  const withManifest = (name: string, fields: Record<string, unknown>) =>
    findViolations(folderWith({ [`packages/${name}/package.json`]: manifest(fields) }))

  it.each(["dependencies", "peerDependencies", "optionalDependencies"])("follows the same table in %s", (kind) => {
    assert.deepStrictEqual(withManifest("domain", { [kind]: { effect: "4.1.0" } }), [])
    assert.lengthOf(withManifest("domain", { [kind]: { "@coppice/postgres": "0.1.0" } }), 1)
    assert.lengthOf(withManifest("supervision", { [kind]: { "@effect/sql-pg": "4.0.5" } }), 1)
  })

  it("leaves development dependencies alone", () => {
    assert.deepStrictEqual(withManifest("supervision", { devDependencies: { "@coppice/postgres": "0.1.0" } }), [])
  })
})

describe("cycles", () => {
  const files = (a: string, b: string) =>
    findViolations(
      folderWith({
        "packages/domain/package.json": manifest(),
        "packages/domain/src/A.ts": a,
        "packages/domain/src/B.ts": b
      })
    )

  it("names the files of a circle of value imports", () => {
    assert.deepStrictEqual(
      files(`import { b } from "./B.ts"\nexport const a = b`, `export * from "./A.ts"\nexport const b = 1`),
      ["import cycle: packages/domain/src/A.ts -> packages/domain/src/B.ts -> packages/domain/src/A.ts"]
    )
  })

  it("allows circles that exist in types alone", () => {
    assert.deepStrictEqual(
      files(`import type { B } from "./B.ts"\nexport type A = B`, `export * from "./A.ts"\nexport type B = 1`),
      []
    )
  })

  it("takes an import whose names are all types for one that runs, as the compiler leaves it in place", () => {
    assert.lengthOf(
      files(`import { type B } from "./B.ts"\nexport type A = B`, `export * from "./A.ts"\nexport type B = 1`),
      1
    )
  })
})
