/**
 * Opens an empty PGlite in a fraction of the time that creating one takes, by keeping a copy of the first one that was
 * created in `node_modules/.cache`.
 */
import type { PGlite } from "@electric-sql/pglite"
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs/promises"
import { createRequire } from "node:module"
import * as Path from "node:path"

/** PGlite's 128 MB are for a database that is larger than a test's. */
const settings = ["shared_buffers = 16MB"]

/** An empty PGlite in memory. */
export const open = async (): Promise<PGlite> => {
  const { PGlite } = await import("@electric-sql/pglite")
  const file = await snapshotFile()
  const snapshot = await Fs.readFile(file).catch(() => undefined)
  if (snapshot !== undefined) {
    try {
      return await PGlite.create({ loadDataDir: new Blob([new Uint8Array(snapshot)]) })
    } catch {
      // Not what we wrote, for example after a full disk: make a new one.
      await Fs.rm(file, { force: true })
    }
  }
  const created = await PGlite.create({ postgresqlconf: settings })
  await keep(file, created)
  return created
}

/** Beside the installed package, and only for its version. */
const snapshotFile = async (): Promise<string> => {
  const name = "@electric-sql/pglite"
  const entry = createRequire(import.meta.url).resolve(name)
  const root = entry.slice(0, entry.lastIndexOf(Path.normalize(name)))
  const manifest = await Fs.readFile(Path.join(root, name, "package.json"), "utf8")
  const version = /"version": "([^"]+)"/.exec(manifest)?.[1]
  return Path.join(root, ".cache/coppice", `pglite-${version}.tar`)
}

const keep = async (file: string, created: PGlite): Promise<void> => {
  const partial = `${file}.${randomBytes(4).toString("hex")}`
  try {
    await Fs.mkdir(Path.dirname(file), { recursive: true })
    const snapshot = await created.dumpDataDir("none")
    await Fs.writeFile(partial, new Uint8Array(await snapshot.arrayBuffer()))
    await Fs.rename(partial, file)
  } catch {
    // node_modules may be read-only; the next start is slower then, and nothing else.
    await Fs.rm(partial, { force: true }).catch(() => {})
  }
}
