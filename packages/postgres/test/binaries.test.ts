import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { isRoot } from "../src/internal/account.ts"
import * as Binaries from "../src/internal/binaries.ts"
import { temporaryFolder } from "./fixtures/machine.ts"

const links = [
  { source: "native/lib/libpq.so.5.18", target: "native/lib/libpq.so.5" },
  { source: "native/lib/libpq.so.5.18", target: "native/lib/libpq.so" }
]

/** What an installation without install scripts leaves in node_modules. */
const installed = Effect.map(temporaryFolder, (folder) => {
  const root = Path.join(folder, "package")
  Fs.mkdirSync(Path.join(root, "native/bin"), { recursive: true })
  Fs.mkdirSync(Path.join(root, "native/lib"), { recursive: true })
  Fs.writeFileSync(Path.join(root, "package.json"), JSON.stringify({ version: `0.0.0-${Path.basename(folder)}` }))
  Fs.writeFileSync(Path.join(root, "native/pg-symlinks.json"), JSON.stringify(links))
  Fs.writeFileSync(Path.join(root, "native/lib/libpq.so.5.18"), "library")
  Fs.writeFileSync(Path.join(root, "native/bin/postgres"), "program")
  return root
})

const prepared = (root: string) => Effect.promise(() => Binaries.prepare(root))
const caches = () => Fs.readdirSync(Os.tmpdir()).filter((name) => name.startsWith("coppice-postgres-"))
const clear = Effect.sync(() =>
  caches().forEach((name) => Fs.rmSync(Path.join(Os.tmpdir(), name), { recursive: true }))
)

describe("the binaries of the npm package", () => {
  it.live("get the library links that npm 12 and --ignore-scripts leave out, also when many ask at once", () =>
    Effect.gen(function* () {
      const root = yield* installed
      const found = yield* Effect.all([prepared(root), prepared(root), prepared(root)], { concurrency: "unbounded" })
      assert.deepStrictEqual(found[0], { folder: Path.join(root, "native/bin"), environment: {} })
      for (const { target } of links) assert.strictEqual(Fs.readFileSync(Path.join(root, target), "utf8"), "library")
      assert.deepStrictEqual(caches(), [])
    }).pipe(Effect.scoped)
  )

  it.live.runIf(isRoot)("are copied once to where the server's account can execute them, if they are below /root", () =>
    Effect.gen(function* () {
      const root = yield* installed
      Fs.chmodSync(Path.dirname(root), 0o700)
      const found = yield* Effect.all([prepared(root), prepared(root)], { concurrency: "unbounded" })
      assert.deepStrictEqual(found[0], found[1])
      assert.lengthOf(caches(), 1)
      const { folder } = found[0]
      assert.strictEqual(Fs.readFileSync(Path.join(folder, "postgres"), "utf8"), "program")
      assert.strictEqual(Fs.readFileSync(Path.join(folder, "../lib/libpq.so.5"), "utf8"), "library")
    }).pipe(Effect.scoped, Effect.ensuring(clear))
  )

  it.live.runIf(process.getuid !== undefined)("are not taken from a temporary folder that others can write to", () =>
    Effect.gen(function* () {
      const root = yield* installed
      const { version } = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8"))
      const planted = Path.join(Os.tmpdir(), `coppice-postgres-binaries-${version}-${process.getuid?.()}`)
      Fs.mkdirSync(planted)
      Fs.chmodSync(planted, 0o777)
      const folder = Binaries.cached(root, "binaries", () => Promise.resolve())
      const cause = yield* Effect.flip(Effect.tryPromise(() => folder))
      assert.include(String(cause.cause), "does not belong to us alone")
    }).pipe(Effect.scoped, Effect.ensuring(clear))
  )
})
