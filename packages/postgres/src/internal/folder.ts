/**
 * The data folder of an embedded server: whether it holds a cluster, and whether another server runs on it.
 *
 * PostgreSQL's own lock, `postmaster.pid`, refuses a second server. It cannot tell a server that somebody uses from
 * one that is about to end because its owner was killed; the owner's process id, which every server is given, can.
 */
import { Effect, Schedule } from "effect"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { FolderInUse, StartFailed } from "../PostgresError.ts"

/** The setting that carries the owner's process id; PostgreSQL writes it to the folder's `postmaster.opts`. */
export const ownerSetting = "coppice.owner"

/** How often, and for how long, to wait for a server that is about to end. */
export const patience = Schedule.spaced("25 millis").pipe(Schedule.upTo({ duration: "10 seconds" }))

/** What `postmaster.pid` says: the server that runs on the folder, or the last one, if it did not stop properly. */
export interface Lock {
  readonly pid: number
  readonly status: string
}

export const readLock = (folder: string): Effect.Effect<Lock | undefined> =>
  Effect.map(read(folder, lockFile), (text) => {
    const lines = text.split("\n")
    const pid = Number(lines[0])
    return Number.isInteger(pid) && pid > 0 ? { pid, status: lines[7]?.trim() ?? "" } : undefined
  })

/** Whether the folder holds a cluster; fails when it holds something else, or is not ours to read. */
export const isCluster = Effect.fnUntraced(function* (folder: string) {
  const names = yield* Effect.tryPromise({
    try: () =>
      Fs.readdir(folder).catch((cause): Array<string> => {
        if (isMissing(cause)) return []
        throw cause
      }),
    catch: (cause) => new StartFailed({ problem: `the data folder ${folder} cannot be read: ${String(cause)}`, cause })
  })
  if (names.includes("PG_VERSION")) return true
  if (names.length === 0) return false
  return yield* new StartFailed({ problem: `${folder} is not empty and not a PostgreSQL data folder` })
})

/** Waits while a server whose owner is gone shuts down; fails at once if its owner is alive. */
export const untilFree = (folder: string): Effect.Effect<void, FolderInUse> =>
  free(folder).pipe(
    Effect.retry({ while: ({ ending }) => ending, schedule: patience }),
    Effect.mapError(({ error }) => error)
  )

/** Whether a server did not start because the folder's previous one is not completely gone. */
export const isHeld = (error: StartFailed): boolean => /postmaster\.pid|shared memory block/.test(error.problem)

const lockFile = "postmaster.pid"

/** What to tell those who cannot have the folder. */
export const inUse = (folder: string): Effect.Effect<FolderInUse> =>
  Effect.map(
    Effect.all([readLock(folder), readOwner(folder)]),
    ([lock, owner]) => new FolderInUse({ folder, server: lock?.pid, owner })
  )

/** Whether a process is there, whoever it belongs to. */
export const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return typeof cause === "object" && cause !== null && "code" in cause && cause.code === "EPERM"
  }
}

const free = Effect.fnUntraced(function* (folder: string) {
  const lock = yield* readLock(folder)
  if (lock === undefined || !isAlive(lock.pid)) return
  if (!(yield* isServerOn(folder, lock.pid))) return yield* disown(folder)
  const owner = yield* readOwner(folder)
  // This process gave the folder up before it asked for it again.
  const abandoned = owner !== undefined && (owner === process.pid || !isAlive(owner))
  const error = new FolderInUse({ folder, server: lock.pid, owner })
  return yield* Effect.fail({ error, ending: abandoned || lock.status === "stopping" })
})

/**
 * Whether the process is a server on the folder, and not one that got its number after the server was killed: after a
 * restart of a container the numbers are the same. A server works in its folder, which Linux tells. What is there but
 * works nowhere is dead, and only waits to be asked how it died.
 */
const isServerOn = (folder: string, pid: number): Effect.Effect<boolean> =>
  Effect.promise(async () => {
    if (process.platform !== "linux") return true
    try {
      return (await Fs.readlink(`/proc/${pid}/cwd`)) === folder
    } catch (cause) {
      return !isMissing(cause)
    }
  })

/**
 * Puts our own process id into a lock file that names a stranger. PostgreSQL, which would believe the stranger to be
 * its colleague, takes an ancestor's id for what it is, and goes on to look for what else is left of the old server.
 */
const disown = (folder: string): Effect.Effect<void> =>
  Effect.promise(async () => {
    const file = Path.join(folder, lockFile)
    const [, ...rest] = (await Fs.readFile(file, "utf8")).split("\n")
    await Fs.writeFile(file, [process.pid, ...rest].join("\n"))
  })

const readOwner = (folder: string): Effect.Effect<number | undefined> =>
  Effect.map(read(folder, "postmaster.opts"), (text) => {
    const owner = new RegExp(`${ownerSetting}=(\\d+)`).exec(text)?.[1]
    return owner === undefined ? undefined : Number(owner)
  })

/** A file's text; empty when it is not there. */
const read = (folder: string, name: string): Effect.Effect<string> =>
  Effect.promise(() =>
    Fs.readFile(Path.join(folder, name), "utf8").catch((cause) => {
      if (isMissing(cause)) return ""
      throw cause
    })
  )

const isMissing = (cause: unknown): boolean =>
  typeof cause === "object" && cause !== null && "code" in cause && cause.code === "ENOENT"
