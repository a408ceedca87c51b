/**
 * Putting the service together, with a node behind it or without.
 */
import { Duration, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { hostname } from "node:os"
import * as JobLogger from "../JobLogger.ts"
import type { Options, Shape, Status } from "../Jobs.ts"
import { SchemaName, TimeSource } from "../JobsConfig.ts"
import * as Migrations from "../Migrations.ts"
import * as Retention from "../Retention.ts"
import * as Care from "./care.ts"
import type { Client, Signal } from "./client.ts"
import * as CronEntry from "./cronEntry.ts"
import * as Cron from "./crontab.ts"
import * as Database from "./database.ts"
import { Engine } from "./engine.ts"
import * as Enqueue from "./enqueue.ts"
import { checkSpec } from "./enqueueRow.ts"
import { Hub } from "./hub.ts"
import { Jobs } from "./jobsService.ts"
import { count, durationFrom, nodeName } from "./options.ts"
import * as Queues from "./queues.ts"
import * as Runtime from "./runtime.ts"
import { Signals } from "./signals.ts"
import { workersIn } from "./workers.ts"

/** The service alone, on the application's connections, and what it stands on. Who is `alone` has nobody to signal to. */
export const clientWith = Effect.fnUntraced(function* (alone: boolean, hear?: (signal: Signal) => void) {
  const sql = yield* SqlClient.SqlClient
  const database = yield* Database.make(sql, yield* SchemaName, yield* TimeSource)
  const hub = new Hub(yield* Effect.context<never>())
  const signals = new Signals(database, "client", hear)
  const client = Runtime.clientOf(sql, database, { hub }, signals)
  if (!alone) {
    yield* Effect.forkScoped(signals.run)
    yield* Effect.addFinalizer(() => signals.flush)
  }
  return { client, hub, jobs: service(client, hub, Effect.succeed(idle)) }
})

/** The service alone. */
export const client = Effect.map(clientWith(false), ({ jobs }) => jobs)

const idle: Status = { node: undefined, wakeUp: "off", queues: {}, heartbeatAge: undefined }

/** A node that runs queues, as a layer of its loops and of the service. */
export const node = Effect.fnUntraced(function* <Workers extends ReadonlyArray<Layer.Any>>(options: Options<Workers>) {
  const context = yield* Effect.context<never>()
  const sql = yield* SqlClient.SqlClient
  const time = yield* TimeSource
  const database = yield* Database.make(sql, yield* SchemaName, time)
  const usual = defaults[time]
  const lease = yield* durationFrom("lease", "1 second", options.lease ?? usual.lease)
  const pollInterval = yield* durationFrom("pollInterval", "10 millis", options.pollInterval ?? usual.pollInterval)
  const grace = yield* durationFrom("shutdownGrace", 0, options.shutdownGrace ?? usual.shutdownGrace)
  const maxRescues = yield* count("maxRescues", options.maxRescues ?? 3)
  const connections = yield* count("connections", options.connections ?? 4)
  const name = yield* nodeName(options.node ?? hostname())
  const retention = yield* Retention.limits(options.retention)
  const cron = yield* CronEntry.prepareAll(options.cron ?? [])
  const workers = yield* workersIn(context)
  for (const { spec } of workers.values()) {
    const problem = checkSpec(spec)
    if (problem !== undefined) return yield* problem
  }
  if (options.migrate ?? true) yield* Migrations.run
  const hub = new Hub(context)
  const engine = new Engine({
    name,
    queues: Object.fromEntries(
      Object.entries(options.queues).map(([name, queue]) => [
        name,
        typeof queue === "number" ? { limit: queue } : queue
      ])
    ),
    workers,
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
    retention,
    maintenanceInterval: usual.maintenanceInterval
  })
  const log = options.log ?? "problems"
  yield* Effect.forkScoped(JobLogger.run(log === "all" ? hub.stream : hub.problems, log), { startImmediately: true })
  const jobs = service(
    Runtime.clientOf(sql, database, { hub }, signals),
    hub,
    Effect.sync(() => statusOf(engine))
  )
  return Layer.merge(loops, Layer.succeed(Jobs, jobs))
})

/**
 * On virtual time, nothing is lost, and nobody else runs jobs: a node that sleeps until something is due lets a week pass in
 * a few steps.
 */
const defaults = {
  database: {
    lease: "30 seconds",
    pollInterval: "1 second",
    shutdownGrace: "15 seconds",
    maintenanceInterval: "1 minute"
  },
  clock: { lease: "1 day", pollInterval: "1 hour", shutdownGrace: 0, maintenanceInterval: "1 day" }
} as const

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
