/**
 * A PostgreSQL server of our own: created if need be, started, and gone with the scope or with the process.
 */
import { Effect, Schedule, type Scope } from "effect"
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs/promises"
import { createServer } from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import { type BinariesMissing, FolderInUse, ServerExited, StartFailed } from "../PostgresError.ts"
import * as Account from "./account.ts"
import * as Binaries from "./binaries.ts"
import * as Cluster from "./cluster.ts"
import { live } from "./database.ts"
import * as Folder from "./folder.ts"
import * as Guard from "./guard.ts"

/** A running server. */
export interface Server {
  readonly pid: number
  readonly folder: string
  /** The URL of one of its databases. */
  readonly url: (database: string) => string
  /** Fails when the server ends. */
  readonly ended: Effect.Effect<never, ServerExited>
}

export interface Options {
  /** A throw-away cluster when omitted. */
  readonly folder: string | undefined
  /** Where `postgres` and `initdb` are; those of the npm package when omitted. */
  readonly binaries: string | undefined
  readonly settings: Readonly<Record<string, string>>
  /** Whether the platform has neither unix sockets nor a shell. */
  readonly windows: boolean
}

/** Starts a server, by the live clock. */
export const start = (
  options: Options
): Effect.Effect<Server, BinariesMissing | FolderInUse | StartFailed, Scope.Scope> => live(make(options))

/** Settings for data that must not be lost. */
const durable = { max_connections: "100", shared_buffers: "64MB" }

/**
 * Settings for data that nobody needs after the server. `synchronous_commit` stays on: without it, a backend that is
 * killed makes the server forget what others committed.
 */
const throwAway = {
  autovacuum: "off",
  deadlock_timeout: "100ms",
  fsync: "off",
  full_page_writes: "off",
  max_connections: "200",
  max_wal_senders: "0",
  shared_buffers: "64MB",
  wal_level: "minimal"
}

const make = Effect.fnUntraced(function* (options: Options) {
  const binaries = yield* Binaries.find(options.binaries)
  const account = yield* Account.forFolder(options.folder)
  const run = yield* runFolder
  const temporary = options.folder === undefined
  const folder = options.folder === undefined ? Path.join(run, "data") : yield* claim(options.folder)
  const isHeld = (error: { readonly _tag: string }): error is StartFailed =>
    error instanceof StartFailed && Folder.isHeld(error)
  return yield* launch({ ...options, account, binaries, folder, run, temporary }).pipe(
    Effect.retry({ while: isHeld, schedule: Folder.patience }),
    Effect.catchIf(isHeld, () => Effect.flatMap(Folder.inUse(folder), Effect.fail))
  )
})

interface Launch extends Omit<Options, "binaries"> {
  readonly account: Account.Account
  readonly binaries: Binaries.Binaries
  readonly folder: string
  /** The folder of the socket, whose path must be short. */
  readonly run: string
  readonly temporary: boolean
}

const launch = Effect.fnUntraced(function* (options: Launch) {
  const { account, binaries, folder, run, temporary, windows } = options
  // What is no data folder cannot be in use either: the error to tell of is this one.
  yield* Folder.isCluster(folder)
  yield* Folder.untilFree(folder)
  const environment = environmentFor(binaries)
  const password = windows
    ? { value: randomBytes(24).toString("base64url"), file: Path.join(run, "password") }
    : undefined
  const draft = (yield* Folder.isCluster(folder))
    ? undefined
    : yield* Cluster.draft({ account, binaries, environment, folder, temporary, password })
  const opened = temporary ? undefined : yield* openIfHidden(account, draft?.folder ?? folder)
  const port = windows ? yield* freePort : 5432
  const settings = {
    ...(temporary ? throwAway : durable),
    // Containers often have only 64 MB of the default kind, which parallel queries can exceed.
    ...(temporary && !windows ? { dynamic_shared_memory_type: "mmap" } : {}),
    ...options.settings,
    [Folder.ownerSetting]: process.pid,
    listen_addresses: windows ? "127.0.0.1" : "",
    port,
    ...(windows ? {} : { unix_socket_directories: run, unix_socket_permissions: "0700" })
  }
  const server = yield* Guard.run({
    initdb: Binaries.program(binaries, "initdb"),
    create:
      draft === undefined
        ? undefined
        : { folder: opened?.path ?? draft.folder, flags: draft.flags, partial: draft.folder },
    postgres: Binaries.program(binaries, "postgres"),
    arguments: [
      "-D",
      opened?.path ?? folder,
      ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])
    ],
    stop: temporary ? "immediate" : "fast",
    run,
    account,
    environment: draft === undefined ? environment : { ...environment, [Guard.passwordVariable]: password?.value },
    inherit: opened?.descriptor,
    control: windows ? { pgCtl: Binaries.program(binaries, "pg_ctl"), folder } : undefined
  })
  if (draft !== undefined) {
    yield* server.created
    yield* draft.complete
    yield* server.proceed
  }
  const pid = yield* server.pid
  yield* Effect.raceFirst(
    untilReady(folder, pid),
    Effect.flatMap(server.ended, (problem) => Effect.fail(new StartFailed({ problem })))
  )
  yield* server.started
  const address = windows
    ? `postgres:${yield* Cluster.readPassword(folder)}@127.0.0.1:${port}`
    : `postgres@localhost:${port}`
  return {
    pid,
    folder,
    url: (database: string) =>
      `postgres://${address}/${encodeURIComponent(database)}${windows ? "" : `?host=${encodeURIComponent(run)}`}`,
    ended: Effect.flatMap(server.ended, (problem) => Effect.fail(new ServerExited({ pid, problem })))
  }
})

/** The server says in its lock file when it accepts connections; asking the file works however it logs. */
const untilReady = (folder: string, pid: number) =>
  Effect.repeat(Folder.readLock(folder), {
    until: (lock) => lock?.pid === pid && lock.status === "ready",
    schedule: Schedule.spaced("10 millis")
  })

/** The folders of this process that have a server, so that a second one is refused before it touches anything. */
const claimed = new Set<string>()

const claim = Effect.fnUntraced(function* (folder: string) {
  const path = yield* Cluster.attempt(`cannot create the folder above ${folder}`, async () => {
    const { base, dir } = Path.parse(Path.resolve(folder))
    await Fs.mkdir(dir, { recursive: true })
    return await Fs.realpath(Path.join(dir, base)).catch(async () => Path.join(await Fs.realpath(dir), base))
  })
  yield* Effect.acquireRelease(
    Effect.suspend(() => {
      if (claimed.has(path)) return Effect.fail(new FolderInUse({ folder: path, owner: process.pid }))
      claimed.add(path)
      return Effect.void
    }),
    () => Effect.sync(() => claimed.delete(path))
  )
  return path
})

/**
 * The folder of the socket, whose path may have about 100 bytes, and of a throw-away cluster. The guard creates it, so
 * that there is no moment at which it would stay behind.
 */
const runFolder = Effect.acquireRelease(
  Cluster.attempt("cannot find a temporary folder", async () => {
    const parent = Os.tmpdir()
    const usable = parent.length < 60 && (!Account.isRoot || (await Account.isOpen(parent)))
    const name = `coppice-pg-${randomBytes(5).toString("hex")}`
    return Path.join(usable || process.platform === "win32" ? parent : "/tmp", name)
  }),
  (folder) => Effect.promise(() => Fs.rm(folder, { recursive: true, force: true, maxRetries: 10 }))
)

/**
 * As root, a project may lie where the server's account cannot go, such as /root. The server then reaches its folder
 * through a descriptor that it inherits: no file is copied, and no permission above the folder changes.
 */
const openIfHidden = Effect.fnUntraced(function* (account: Account.Account, folder: string) {
  if (account.uid === undefined) return undefined
  if (yield* Cluster.attempt(`cannot see ${folder}`, () => Account.isReachable(folder, account))) return
  const handle = yield* Effect.acquireRelease(
    Cluster.attempt(`cannot open ${folder}`, () => Fs.open(folder)),
    (handle) => Effect.promise(() => handle.close())
  )
  return { descriptor: handle.fd, path: "/proc/self/fd/3" }
})

const freePort = Cluster.attempt(
  "there is no free port",
  () =>
    new Promise<number>((resolve, reject) => {
      const server = createServer().once("error", reject)
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        server.close(() =>
          address !== null && typeof address === "object" ? resolve(address.port) : reject(new Error("no address"))
        )
      })
    })
)

/** As little as possible: settings such as PGDATA or LC_ALL in our environment are not meant for this server. */
const environmentFor = (binaries: Binaries.Binaries) => ({
  PATH: process.env["PATH"],
  LC_ALL: "C",
  TZ: "UTC",
  // PostgreSQL takes a stale lock file for its own when the process id in it is that of an ancestor.
  PG_GRANDPARENT_PID: String(process.pid),
  ...(process.platform === "win32" ? { SystemRoot: process.env["SystemRoot"], TEMP: process.env["TEMP"] } : {}),
  ...binaries.environment
})
