/**
 * PostgreSQL refuses to run as root. A root process therefore borrows an account that the machine already has:
 * nothing is created, and files that the account cannot reach by path are handled by the caller.
 */
import { Effect } from "effect"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { StartFailed } from "../PostgresError.ts"

/** Whom to run PostgreSQL as; empty when it can run as ourselves. */
export interface Account {
  readonly uid?: number
  readonly gid?: number
}

export const isRoot = process.getuid?.() === 0

/**
 * The account for a server on `folder`: the folder's owner when it has one besides root (the cluster belongs to it),
 * else `postgres`, else `nobody`, else the first ordinary user.
 */
export const forFolder = Effect.fnUntraced(function* (folder: string | undefined) {
  const self: Account = {}
  if (!isRoot) return self
  const owner = folder === undefined ? undefined : yield* Effect.promise(() => Fs.stat(folder).catch(() => undefined))
  if (owner !== undefined && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid }
  const users = yield* Effect.tryPromise({
    try: async () => (await Fs.readFile("/etc/passwd", "utf8")).split("\n").map((line) => line.split(":")),
    catch: (cause) => new StartFailed({ problem: "running as root, and /etc/passwd cannot be read", cause })
  })
  const user =
    users.find(([name]) => name === "postgres")
    ?? users.find(([name]) => name === "nobody")
    ?? users.find(([, , uid]) => Number(uid) >= 1000)
  if (user === undefined) {
    return yield* new StartFailed({ problem: "PostgreSQL cannot run as root, and /etc/passwd has no other user" })
  }
  return { uid: Number(user[2]), gid: Number(user[3]) }
})

/** Gives `path` to `account`, if that is not ourselves. */
export const give = async (account: Account, path: string): Promise<void> => {
  if (account.uid !== undefined && account.gid !== undefined) await Fs.chown(path, account.uid, account.gid)
}

/** Whether everybody, or at least `account`, may enter all folders above `path`; nobody may enter /root, for example. */
export const isReachable = async (path: string, account: Account = {}): Promise<boolean> => {
  for (let folder = Path.dirname(path); ; folder = Path.dirname(folder)) {
    const { mode, uid } = await Fs.stat(folder)
    if ((mode & (uid === account.uid ? 0o100 : 0o001)) === 0) return false
    if (Path.dirname(folder) === folder) return true
  }
}

/** Whether everybody may create files in `folder`. */
export const isOpen = async (folder: string): Promise<boolean> =>
  ((await Fs.stat(folder)).mode & 0o002) !== 0 && (await isReachable(Path.join(folder, "x")))
