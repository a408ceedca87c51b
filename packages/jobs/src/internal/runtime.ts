/**
 * A node at work: the supervised loops, and what they share.
 */
import { Child, Supervisor } from "@coppice/supervision"
import { PgClient } from "@effect/sql-pg"
import { Clock, Duration, Effect, Latch, Layer, Schema } from "effect"
import type { SqlClient } from "effect/sql"
import type * as Retention from "../Retention.ts"
import * as Claim from "./claim.ts"
import type { Client, Signal } from "./client.ts"
import type * as CronEntry from "./cronEntry.ts"
import * as CronLoop from "./cronLoop.ts"
import * as Database from "./database.ts"
import type { Engine } from "./engine.ts"
import * as Heartbeat from "./heartbeat.ts"
import * as History from "./history.ts"
import * as LimitedClaim from "./limitedClaim.ts"
import * as Listener from "./listener.ts"
import * as Nodes from "./nodes.ts"
import * as Poll from "./poll.ts"
import * as Pool from "./pool.ts"
import * as Producer from "./producer.ts"
import * as Queues from "./queues.ts"
import type { QueueState } from "./queueState.ts"
import * as Rescuer from "./rescuer.ts"
import * as Settle from "./settle.ts"
import * as Settler from "./settler.ts"
import * as Shutdown from "./shutdown.ts"
import { channel, type Message, Signals } from "./signals.ts"
import * as Stage from "./stage.ts"

/** What a node is told about itself. */
export interface Options {
  readonly engine: Engine
  /** On the application's connections. */
  readonly database: Database.Database
  readonly lease: Duration.Duration
  readonly pollInterval: Duration.Duration
  readonly maxRescues: number
  readonly grace: Duration.Duration
  readonly connections: number
  readonly cron: ReadonlyArray<CronEntry.Prepared>
  readonly retention: Retention.Limits
  /** Between two rounds of keeping the history in order. */
  readonly maintenanceInterval: Duration.Input
}

/** The database that the node's own connections lead to is not the application's any more. */
class DatabaseMoved extends Schema.TaggedError<DatabaseMoved>("@coppice/jobs/DatabaseMoved")("DatabaseMoved", {}) {
  override get message(): string {
    return "The application's database has another address now: the queue begins anew there"
  }
}

/** Things that loops wake each other with. */
interface Pokes {
  readonly poll: Latch.Latch
  readonly stale: { settings: boolean }
  readonly cancel: Latch.Latch
  readonly cron: Latch.Latch
}

/** Opens the node's own connections, and makes the supervisor of its loops. */
export const make = Effect.fnUntraced(function* (options: Options) {
  const { connections, database: outer, engine } = options
  const application = yield* PgClient.PgClient
  const { config } = application
  const pool = yield* Pool.make(application, connections, "coppice jobs")
  // A heartbeat waits for nobody.
  const own = yield* Pool.make(application, 1, "coppice jobs heartbeat")
  yield* Effect.forkScoped(watch(engine, application, config))
  const database = Database.bounded(yield* Database.make(pool, outer.name, outer.time), options.lease)
  const lease = Nodes.lease(options.lease)
  const nodes = Nodes.make(yield* Database.make(own, outer.name, outer.time), lease, options.maxRescues)
  const pokes: Pokes = {
    poll: Latch.makeUnsafe(true),
    stale: { settings: true },
    cancel: Latch.makeUnsafe(false),
    cron: Latch.makeUnsafe(false)
  }
  const signals = new Signals(database, yield* uuid(database), (signal) => hear(engine, pokes, signal))
  const available = (queue: string) => signals.add({ _tag: "Jobs", queue })
  const client: Client = {
    database,
    signal: (signal) => pool.afterCommit(Effect.sync(() => signals.add(signal))),
    emit: (events) => pool.afterCommit(Effect.sync(() => engine.hub.emit(events)))
  }
  yield* Queues.registerDefaults(database)(
    Object.fromEntries(Array.from(engine.queues, ([name, { options }]) => [name, options]))
  )
  // Before jobs end: making the partition of the day keeps them waiting for a moment.
  yield* makePartitions(database)
  // Before anything is claimed: a queue that was paused starts nothing, at no time.
  const settings = Queues.settings(database, engine.name, engine.queues)
  Poll.apply(engine, yield* settings)
  yield* Heartbeat.register(engine, nodes)
  // What is due before the next poll, that must be told. On virtual time, where an idle node sleeps until something is due so
  // that a week is a few steps, it is everything.
  const told = database.time === "clock" ? Number.POSITIVE_INFINITY : Duration.toMillis(options.pollInterval)
  engine.scheduled = (delayMillis) => {
    if (delayMillis < told) pokes.poll.openUnsafe()
  }
  if (database.time === "clock") {
    for (const queue of engine.queues.values()) queue.exact = true
  }
  const patience = database.time === "clock" ? "100 millis" : "5 seconds"
  const settle = Settle.make(database)
  const claim = claimOf(database)

  const layer = Supervisor.layer("jobs", {
    strategy: "one_for_one",
    maxRestarts: 10,
    within: "1 minute",
    children: [
      Child.effect("heartbeat", Heartbeat.run({ engine, nodes, lease, asked: pokes.cancel }), loop),
      Child.effect(
        "rescuer",
        Rescuer.run({ engine, nodes: Nodes.make(database, lease, options.maxRescues), lease, available }),
        loop
      ),
      Child.effect("settler", Settler.run(engine, settle), loop),
      Child.effect("notifier", signals.run, loop),
      Child.effect("listener", listen(application, database, signals, engine, pokes), loop),
      Child.effect(
        "poll",
        Poll.run({
          engine,
          interval: options.pollInterval,
          stage: Stage.make(database),
          settings,
          available,
          poke: pokes.poll,
          stale: pokes.stale
        }),
        loop
      ),
      Child.effect("maintenance", maintain(engine, client, options), loop),
      Child.effect(
        "cron",
        CronLoop.run({
          client,
          entries: options.cron,
          node: { id: engine.id },
          lease,
          changed: pokes.cron
        }),
        loop
      ),
      Child.layer(
        "queues",
        Supervisor.layer("queues", {
          strategy: "one_for_one",
          maxRestarts: 10,
          within: "1 minute",
          children: [...engine.queues.values()].map((queue) =>
            Child.effect(queue.name, Producer.run(engine, queue, claim), loop)
          )
        })
      ),
      // Stops first, while all loops still run.
      Child.layer(
        "shutdown",
        Layer.effectDiscard(
          Effect.acquireRelease(Effect.void, () =>
            Shutdown.run({ engine, nodes, grace: options.grace, patience, tell: signals.flush })
          )
        ),
        { shutdown: "infinity" }
      )
    ]
  })
  return { client, layer, signals }
})

/** When a node ends, what its loops still wait for is nothing to wait for long. */
const loop = { shutdown: "1 second" } as const

const uuid = (database: Database.Database) =>
  Effect.map(database.run<{ readonly id: string }>("select gen_random_uuid() as id"), ([row]) => row?.id ?? "")

/** Fails when the application's client leads somewhere else, as it may after its database was restarted. */
const watch = (engine: Engine, application: PgClient.PgClient, config: PgClient.PgClientConfig) =>
  Effect.gen(function* () {
    while (Listener.sameDatabase(application.config, config)) yield* Effect.sleep("1 second")
    // What jobs end with cannot be written any more: it is not waited for.
    engine.stopping = true
    engine.gone = true
    engine.fence()
    return yield* new DatabaseMoved()
    // Where a server is has nothing to do with what time it is for the jobs.
  }).pipe(Effect.provideService(Clock.Clock, Clock.Clock.defaultValue()))

/** What a signal means for this node. */
const hear = (engine: Engine, pokes: Pokes, signal: Signal): void => {
  switch (signal._tag) {
    case "Jobs":
      engine.queues.get(signal.queue)?.look()
      return
    case "Queue":
      pokes.stale.settings = true
      pokes.poll.openUnsafe()
      return
    case "Due":
      pokes.poll.openUnsafe()
      return
    case "Cancel":
      pokes.cancel.openUnsafe()
      return
    case "Cron":
      pokes.cron.openUnsafe()
  }
}

const receive = (engine: Engine, pokes: Pokes, signals: Signals, message: Message): void => {
  // What this node says it has heard already.
  if (message.from === signals.from) return
  const jobs = message.jobs ?? []
  for (const queue of jobs.includes("*") ? engine.queues.keys() : jobs) hear(engine, pokes, { _tag: "Jobs", queue })
  if (message.queues === true) hear(engine, pokes, { _tag: "Queue", queue: "" })
  if (message.due === true) pokes.poll.openUnsafe()
  if (message.cancel === true) pokes.cancel.openUnsafe()
  if (message.cron === true) pokes.cron.openUnsafe()
}

const listen = (
  application: PgClient.PgClient,
  database: Database.Database,
  signals: Signals,
  engine: Engine,
  pokes: Pokes
) =>
  Listener.run({
    channel: channel(database),
    client: application,
    signals,
    onMessage: (message) => receive(engine, pokes, signals, message),
    onMode: (mode) =>
      Effect.sync(() => {
        if (mode === engine.wakeUp) return
        engine.wakeUp = mode
        engine.hub.emit([{ _tag: "WakeUpMode", mode }])
        // Whatever was told while nobody listened is looked for once.
        for (const queue of engine.queues.values()) queue.look()
        pokes.stale.settings = true
        pokes.poll.openUnsafe()
        pokes.cancel.openUnsafe()
        pokes.cron.openUnsafe()
      })
  })

const claimOf = (database: Database.Database): Producer.Claim => {
  const plain = Claim.make(database)
  const limited = LimitedClaim.make(database)
  return (queue: QueueState, demand, node, excluded) =>
    queue.limited
      ? limited(queue.name, demand, node, excluded)
      : Effect.map(plain(queue.name, demand, node, queue.begin(), excluded), (rows) => ({ rows, retryIn: undefined }))
}

const maintain = (
  engine: Engine,
  client: Client,
  { maintenanceInterval, retention }: Pick<Options, "maintenanceInterval" | "retention">
): Effect.Effect<never> =>
  Effect.gen(function* () {
    while (true) {
      yield* makePartitions(client.database)
      const pruned = yield* Effect.result(History.prune(client.database, retention))
      if (pruned._tag === "Failure") {
        yield* Effect.logWarning("The history could not be kept in order; trying again later", pruned.failure)
      } else if (pruned.success.jobs > 0) {
        engine.hub.emit([{ _tag: "Pruned", count: pruned.success.jobs }])
      }
      yield* Effect.sleep(maintenanceInterval)
    }
  })

/** Without one, jobs end in the default partition, and nothing is lost. */
const makePartitions = (database: Database.Database): Effect.Effect<void> =>
  // On virtual time, days pass by the thousand.
  (database.time === "clock" ? Effect.void : History.ensurePartitions(database)).pipe(
    Effect.asVoid,
    Effect.catch((error) =>
      Effect.logWarning("The history's next days could not be prepared; trying again later", error)
    )
  )

/** A client on the application's connections. */
export const clientOf = (
  sql: SqlClient.SqlClient,
  database: Database.Database,
  engine: Pick<Engine, "hub">,
  signals: Signals
): Client => ({
  database,
  signal: (signal) => sql.afterCommit(Effect.sync(() => signals.add(signal))),
  emit: (events) => sql.afterCommit(Effect.sync(() => engine.hub.emit(events)))
})
