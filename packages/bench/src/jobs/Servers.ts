/**
 * The servers of a run: a throw-away PostgreSQL with every durability setting on, and a Redis if this machine has one.
 *
 * Samples run in processes of their own and find them through the environment; `DATABASE_URL` names another PostgreSQL.
 */
import { Postgres } from "@coppice/postgres"
import { Context, Effect, Layer, References, Redacted, Schedule, Schema, type Scope } from "effect"
import { Redis } from "ioredis"
import { spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { existsSync } from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import { SuiteUnavailable } from "../Bench.ts"
import { rows, session } from "./Database.ts"

const postgresVariable = "COPPICE_BENCH_POSTGRES"
const redisVariable = "COPPICE_BENCH_REDIS"

/** Starts what is not there yet; ends with the scope, and with the process however that ends. */
export const shared: Effect.Effect<Readonly<Record<string, string>>, SuiteUnavailable, Scope.Scope> = Effect.gen(
  function* (): Effect.fn.Return<Readonly<Record<string, string>>, SuiteUnavailable, Scope.Scope> {
    if (process.env[postgresVariable] !== undefined) return {}
    return { [postgresVariable]: yield* postgres, [redisVariable]: hasRedis ? yield* redis : "" }
  }
)

/** The servers of this process, once `shared` is in its environment. */
export const servers: Effect.Effect<{ readonly postgres: string; readonly redis: string }> = Effect.sync(() => ({
  postgres: process.env[postgresVariable] ?? "",
  redis: process.env[redisVariable] ?? ""
}))

/** Whether `redis-server` is installed. */
export const hasRedis: boolean = (process.env["PATH"] ?? "")
  .split(delimiter)
  .some((folder) => existsSync(join(folder, "redis-server")))

const postgres = Effect.gen(function* () {
  const server = Context.get(
    yield* Layer.build(Postgres.layerServer({ temporary: true, settings })).pipe(
      Effect.provideService(References.MinimumLogLevel, "Warn"),
      Effect.mapError((error) => new SuiteUnavailable({ problem: error.message }))
    ),
    Postgres.Server
  )
  const url = Redacted.value(server.url())
  const off = yield* Effect.scoped(
    Effect.gen(function* () {
      const connection = yield* session(url)
      return yield* rows(connection, Schema.Struct({ name: Schema.String }), notDurable)
    })
  )
  if (off.length > 0)
    return yield* new SuiteUnavailable({
      problem: `the server must keep what it commits, so turn on: ${off.map(({ name }) => name).join(", ")}`
    })
  return url
})

/** What a temporary server leaves out, and what it would have for its lifetime. */
const settings = {
  autovacuum: "on",
  deadlock_timeout: "1s",
  dynamic_shared_memory_type: "posix",
  fsync: "on",
  full_page_writes: "on",
  max_wal_size: "4GB",
  min_wal_size: "1GB",
  shared_buffers: "256MB",
  shared_preload_libraries: "pg_stat_statements",
  wal_level: "replica"
}

const notDurable = `
  select name from pg_settings
  where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting not in ('on', 'local', 'remote_apply')`

const redis = Effect.gen(function* () {
  const folder = join(tmpdir(), `coppice-redis-${randomBytes(5).toString("hex")}`)
  const socket = join(folder, "redis.sock")
  yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn("/bin/sh", ["-c", guard, folder, ...persistence(socket)], {
        detached: true,
        stdio: ["pipe", "ignore", "inherit"]
      })
    ),
    (child) =>
      Effect.callback<void>((resume) => {
        child.once("exit", () => resume(Effect.void))
        child.stdin.end()
      })
  )
  yield* answers(socket).pipe(
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.orDie,
    Effect.timeoutOrElse({
      duration: "10 seconds",
      orElse: () => new SuiteUnavailable({ problem: "redis-server does not answer" })
    })
  )
  return socket
})

// The server ends when this process does, because its standard input ends then; it hears no signal that is meant for this process's group.
const guard = 'mkdir -m 700 "$0" && cd "$0" && { "$@" & read -r _; kill $!; wait $!; cd / && rm -rf "$0"; }'

const persistence = (socket: string) =>
  `redis-server --port 0 --unixsocket ${socket} --save --appendonly yes --appendfsync everysec --maxmemory-policy noeviction`.split(
    " "
  )

const answers = (path: string) =>
  Effect.acquireUseRelease(
    Effect.sync(() => new Redis(path, { lazyConnect: true, retryStrategy: () => null }).on("error", () => {})),
    (client) => Effect.tryPromise(() => client.ping()),
    (client) => Effect.sync(() => client.disconnect())
  )
