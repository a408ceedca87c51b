/** A redis-server of a test's own, on a socket in a folder of its own. It ends with the scope, and with this process. */
import { NodeRedis } from "@effect/platform-node"
import { Effect, Layer, References, Schedule, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { existsSync } from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"

export const isInstalled: boolean = (process.env["PATH"] ?? "")
  .split(delimiter)
  .some((folder) => existsSync(join(folder, "redis-server")))

export interface RedisServer {
  readonly client: Layer.Layer<Redis.Redis>
  readonly clientOf: (user: string, password: string) => Layer.Layer<Redis.Redis>
  /** By a connection that is there for this one command. */
  readonly command: (command: string, ...args: ReadonlyArray<string>) => Effect.Effect<unknown>
  readonly stop: Effect.Effect<void>
  readonly start: Effect.Effect<void>
}

export const make: Effect.Effect<RedisServer, never, Scope.Scope> = Effect.gen(function* () {
  const folder = join(tmpdir(), `coppice-redis-${randomBytes(5).toString("hex")}`)
  const path = join(folder, "redis.sock")
  const clientWith = (options: { readonly username?: string; readonly password?: string }) =>
    NodeRedis.layer({ ...options, socket: { path, tls: false } }).pipe(
      Layer.orDie,
      // The client warns of every connection that a test cuts.
      Layer.provide(Layer.succeed(References.MinimumLogLevel, "None"))
    )
  const client = clientWith({})
  const command = (name: string, ...args: ReadonlyArray<string>) =>
    Effect.provide(
      Effect.flatMap(Redis.Redis, (redis) => redis.send(name, ...args)),
      client,
      { local: true }
    ).pipe(Effect.orDie)

  let running: ReturnType<typeof spawnServer> | undefined
  const stop = Effect.callback<void>((resume) => {
    if (running === undefined) return resume(Effect.void)
    running.once("exit", () => resume(Effect.void))
    running.stdin.end()
    running = undefined
  })
  const start = Effect.suspend(() => {
    running = spawnServer(folder, path)
    return command("PING").pipe(
      Effect.sandbox,
      Effect.retry({ schedule: Schedule.spaced("10 millis"), times: 1_000 }),
      Effect.orDie,
      Effect.asVoid
    )
  })
  yield* Effect.acquireRelease(start, () => stop)
  const clientOf = (username: string, password: string) => clientWith({ username, password })
  return { client, clientOf, command, stop, start }
})

const spawnServer = (folder: string, path: string) =>
  spawn("/bin/sh", ["-c", guard, folder, "redis-server", "--port", "0", "--unixsocket", path, "--save", ""], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"]
  })

// The server ends when this process does, because its standard input ends then.
const guard =
  'mkdir -m 700 "$0" && cd "$0" && { "$@" & read -r _; kill $!; kill -CONT $!; wait $!; cd / && rm -rf "$0"; }'
