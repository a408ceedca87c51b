/**
 * Creates the files of a PostgreSQL cluster.
 *
 * A cluster is created beside its final folder and renamed when it is complete, so that a folder is either a whole
 * cluster or none, whenever the process is killed.
 */
import { Effect, type Scope } from "effect"
import { execFile } from "node:child_process"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { FolderInUse, StartFailed } from "../PostgresError.ts"
import { type Account, give } from "./account.ts"
import { type Binaries, program } from "./binaries.ts"
import { isAlive, isCluster } from "./folder.ts"

/** A cluster that is about to be created. */
export interface Draft {
  /** Where `initdb` creates it, and the arguments that it gets beside. */
  readonly folder: string
  readonly flags: ReadonlyArray<string>
  /** Moves it to its final folder, once it is created. */
  readonly complete: Effect.Effect<void, FolderInUse | StartFailed>
}

export interface Options {
  readonly binaries: Binaries
  readonly account: Account
  readonly environment: Readonly<Record<string, string | undefined>>
  /** The final folder. */
  readonly folder: string
  /** Whether nobody needs the data after the server. */
  readonly temporary: boolean
  /** A password for the user `postgres`, and the file in which `initdb` will find it. */
  readonly password: { readonly value: string; readonly file: string } | undefined
}

/** Prepares a cluster; what is not completed is removed with the scope, or by the next draft for the folder. */
export const draft = Effect.fnUntraced(function* (options: Options): Effect.fn.Return<Draft, StartFailed, Scope.Scope> {
  const { account, folder, password, temporary } = options
  const flags = [
    "--username=postgres",
    "--encoding=UTF8",
    "--no-instructions",
    ...(yield* localeFlags(options)),
    ...(password === undefined ? ["--auth=trust"] : ["--auth=scram-sha-256", `--pwfile=${password.file}`]),
    ...(temporary ? ["--no-sync", "--wal-segsize=1"] : [])
  ]
  if (temporary) return { folder, flags, complete: keep(folder, password?.value) }
  const partial = `${folder}.new-${process.pid}`
  yield* Effect.acquireRelease(
    attempt(`cannot create ${partial}`, async () => {
      await removeAbandoned(folder)
      await Fs.mkdir(partial, { mode: 0o700 })
      await give(account, partial)
    }),
    () => Effect.promise(() => Fs.rm(partial, { recursive: true, force: true }))
  )
  return { folder: partial, flags, complete: Effect.andThen(keep(partial, password?.value), move(partial, folder)) }
})

/** The password of a cluster that has one; it is kept beside the data that it protects. */
export const readPassword = (folder: string): Effect.Effect<string, StartFailed> =>
  attempt("cannot read the server's password", () => Fs.readFile(Path.join(folder, passwordFile), "utf8"))

/** Runs something that may throw, and says in the error what was attempted. */
export const attempt = <A>(problem: string, run: () => Promise<A>): Effect.Effect<A, StartFailed> =>
  Effect.tryPromise({
    try: run,
    catch: (cause) =>
      new StartFailed({ problem: `${problem}: ${cause instanceof Error ? cause.message : cause}`, cause })
  })

const passwordFile = "coppice.password"

const keep = (folder: string, password: string | undefined): Effect.Effect<void, StartFailed> =>
  password === undefined
    ? Effect.void
    : attempt("cannot keep the server's password", () =>
        Fs.writeFile(Path.join(folder, passwordFile), password, { mode: 0o600 })
      )

/** What processes that were killed while they created this cluster left behind. */
const removeAbandoned = async (folder: string): Promise<void> => {
  const prefix = `${Path.basename(folder)}.new-`
  for (const name of await Fs.readdir(Path.dirname(folder))) {
    if (!name.startsWith(prefix)) continue
    const owner = Number(name.slice(prefix.length))
    if (owner !== process.pid && isAlive(owner)) continue
    await Fs.rm(Path.join(Path.dirname(folder), name), { recursive: true, force: true })
  }
}

/** An empty folder may be there already, but not another cluster: somebody was faster, and has it. */
const move = (partial: string, folder: string) =>
  attempt(
    `cannot move the new cluster to ${folder} (if it is a mount point, choose a folder inside it with DATABASE_DIR)`,
    () => Fs.rename(partial, folder)
  ).pipe(
    Effect.catch((error) =>
      Effect.flatMap(isCluster(folder), (taken) => Effect.fail(taken ? new FolderInUse({ folder }) : error))
    )
  )

/** Code point order, as fast as C, but with the upper and lower case of all of Unicode where PostgreSQL has that. */
const localeFlags = (options: Options) =>
  Effect.map(
    attempt("the binaries do not run on this machine (on Linux they need glibc)", () => version(options)),
    (major) => (major >= 17 ? ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"] : ["--locale=C"])
  )

const version = ({ account, binaries, environment }: Options) =>
  new Promise<number>((resolve, reject) => {
    const settings = { ...account, env: { ...environment } }
    execFile(program(binaries, "postgres"), ["--version"], settings, (error, output) => {
      const major = Number(/(\d+)/.exec(output)?.[1])
      if (error !== null || Number.isNaN(major)) reject(error ?? new Error(output))
      else resolve(major)
    })
  })
