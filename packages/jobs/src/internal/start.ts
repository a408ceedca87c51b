/**
 * Putting the service together, with a node behind it or without.
 */
import { Context, Duration, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { hostname } from "node:os"
import * as JobLogger from "../JobLogger.ts"
import type { Options, Shape, Status } from "../Jobs.ts"
import { SchemaName, TimeSource } from "../JobsConfig.ts"
import * as Migrations from "../Migrations.ts"
import * as Retention from "../Retention.ts"
import type * as Worker from "../Worker.ts"
import * as Care from "./care.ts"
import type { Client } from "./client.ts"
import * as CronEntry from "./cronEntry.ts"
import * as Cron from "./crontab.ts"
import * as Database from "./database.ts"
import { Engine } from "./engine.ts"
import * as Enqueue from "./enqueue.ts"
import { Hub } from "./hub.ts"
import { Jobs } from "./jobsService.ts"
import { count, positive } from "./options.ts"
import * as Queues from "./queues.ts"
import * as Runtime from "./runtime.ts"
import { Signals } from "./signals.ts"

/** The service alone, on the application's connections. */
export const client = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const database = yield* Database.make(sql, yield* SchemaName, yield* TimeSource)
  const hub = new Hub(yield* Effect.context<never>())
  const signals = new Signals(database, "client")
  yield* Effect.forkScoped(signals.run)
  yield* Effect.addFinalizer(() => signals.flush)
  return service(Runtime.clientOf(sql, database, { hub }, signals), hub, Effect.succeed(idle))
})

const idle: Status = { node: undefined, wakeUp: "off", queues: {}, heartbeatAge: undefined }

/** A node that runs queues, as a layer of its loops and of the service. */
export const node = Effect.fnUntraced(function* <Workers extends ReadonlyArray<Layer.Any>>(options: Options<Workers>) {
  const context = yield* Effect.context<never>()
  const sql = yield* SqlClient.SqlClient
  const time = yield* TimeSource
  const database = yield* Database.make(sql, yield* SchemaName, time)
  const lease = yield* positive("lease", options.lease ?? "30 seconds")
  const pollInterval = yield* positive("pollInterval", options.pollInterval ?? "1 second")
  const grace = yield* positive("shutdownGrace", options.shutdownGrace ?? (time === "clock" ? 0 : "15 seconds"))
  const maxRescues = yield* count("maxRescues", options.maxRescues ?? 3)
  const connections = yield* count("connections", options.connections ?? 4)
  const retention = yield* Retention.limits(options.retention)
  const cron = yield* CronEntry.prepareAll(options.cron ?? [])
  if (options.migrate ?? true) yield* Migrations.run
  const hub = new Hub(context)
  const engine = new Engine({
    name: options.node ?? hostname(),
    queues: Object.fromEntries(
      Object.entries(options.queues).map(([name, queue]) => [
        name,
        typeof queue === "number" ? { limit: queue } : queue
      ])
    ),
    workers: workersIn(context),
    hub,
    services: context
  })
  const { layer: loops, signals } = yield* Runtime.make({
    engine,
    database,
    lease,
    pollInterval,
    maxRescues,
    grace,
    connections,
    cron,
    retention
  })
  const log = options.log ?? "problems"
  yield* Effect.forkScoped(JobLogger.run(log === "all" ? hub.stream : hub.problems, log))
  const jobs = service(
    Runtime.clientOf(sql, database, { hub }, signals),
    hub,
    Effect.sync(() => statusOf(engine))
  )
  return Layer.merge(loops, Layer.succeed(Jobs, jobs))
})

/** The workers among the services of a context. */
const workersIn = (context: Context.Context<never>): ReadonlyMap<string, Worker.Running> =>
  new Map(
    [...context.mapUnsafe].flatMap(([key, value]) =>
      // What stands under such a key was put there by `Worker.toLayer`.
      key.startsWith("@coppice/jobs/Worker/") ? [[(value as Worker.Running).spec.name, value as Worker.Running]] : []
    )
  )

const service = (client: Client, hub: Hub, status: Effect.Effect<Status>): Shape => ({
  ...Enqueue.make(client),
  ...Care.make(client),
  ...Queues.make(client),
  cron: Cron.make(client),
  events: hub.stream,
  status
})

const statusOf = (engine: Engine): Status => ({
  node: { id: engine.id, name: engine.name },
  wakeUp: engine.wakeUp,
  queues: Object.fromEntries(
    Array.from(engine.queues, ([name, { buffer, limit, paused, running }]) => [
      name,
      { running, buffered: buffer.length, limit, paused }
    ])
  ),
  heartbeatAge: engine.lastBeatAt === undefined ? undefined : Duration.millis(engine.now() - engine.lastBeatAt)
})
