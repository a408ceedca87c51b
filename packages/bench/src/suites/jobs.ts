/**
 * The job queue beside hand-written SQL and beside its peers, all on one server of full durability, each in a database of its own.
 *
 * Every sample runs in a process of its own, worker and measurement in its main thread, jobs for latencies from another. Ten minutes of
 * a held snapshot: `npm run bench -- jobs --case held --set held=600`; a million jobs for the memory: `--case memory --set memory=1000000`.
 */
import { Effect, References, Schema, type Scope } from "effect"
import { type Case, type Contender, type Figure, settledMemory, size, type Suite } from "../Bench.ts"
import { bareInsert } from "../jobs/BareInsert.ts"
import { bullMq } from "../jobs/BullMq.ts"
import { coppice } from "../jobs/Coppice.ts"
import { fresh, inOrder, rows, session } from "../jobs/Database.ts"
import { floor } from "../jobs/Floor.ts"
import { graphileWorker } from "../jobs/GraphileWorker.ts"
import type { AgedQueue, BulkQueue, Implementation, JobQueue, Place, SignalQueue } from "../jobs/Implementation.ts"
import { drain, drainRate, enqueueRate, latencies, medianAndTail, spaced, steady } from "../jobs/Measure.ts"
import { notify } from "../jobs/Notify.ts"
import { persistedQueue } from "../jobs/PersistedQueue.ts"
import { pgBoss } from "../jobs/PgBoss.ts"
import { hasRedis, servers, shared } from "../jobs/Servers.ts"

/** A measurement of any implementation; the scope ends with the sample. */
type Sample<Queue> = (
  implementation: Implementation<Queue>,
  place: Place
) => Effect.Effect<ReadonlyArray<number>, never, Scope.Scope>

const drained: Sample<JobQueue> = Effect.fnUntraced(function* (implementation, place) {
  const queue = yield* implementation.open(place)
  const jobs = yield* size("drain")
  // A worker runs for days: what its first second costs, in which its code is compiled, is a figure of its own.
  const first = yield* drain(queue, jobs)
  return [yield* drain(queue, jobs), first]
})

const enqueued: Sample<BulkQueue> = Effect.fnUntraced(function* (implementation, place) {
  const queue = yield* implementation.open(place)
  const jobs = yield* size("enqueue")
  const first = yield* enqueueRate(queue, jobs * 3, jobs)
  return [yield* enqueueRate(queue, jobs * 3, jobs), first]
})

const startLatency: Sample<SignalQueue> = Effect.fnUntraced(function* (implementation, place) {
  const queue = yield* implementation.open(place)
  const follow = yield* latencies(implementation, place, queue)
  const idle = yield* follow(spaced(yield* size("idleJobs")))
  const busy = yield* follow(steady(yield* size("rate"), yield* size("steady")))
  return [...medianAndTail(idle), ...medianAndTail(busy)]
})

/** Throughput and latency as they are after something, and how many times worse than before. */
const worsened =
  <Queue extends JobQueue>(
    worsen: (
      queue: Queue,
      implementation: Implementation<Queue>,
      place: Place
    ) => Effect.Effect<void, never, Scope.Scope>
  ): Sample<Queue> =>
  (implementation, place) =>
    Effect.gen(function* () {
      const queue = yield* implementation.open(place)
      const jobs = yield* size("drain")
      const plan = steady(yield* size("rate"), yield* size("steady"))
      const figures = Effect.gen(function* () {
        const rate = yield* drain(queue, jobs)
        const follow = yield* latencies(implementation, place, queue)
        return [rate, ...medianAndTail(yield* follow(plan))] as const
      }).pipe(Effect.scoped)
      yield* drain(queue, jobs / 4)
      const before = yield* figures
      yield* worsen(queue, implementation, place)
      const after = yield* figures
      return [after[0], before[0] / after[0], after[1], after[1] / before[1], after[2], after[2] / before[2]]
    })

const aged: Sample<AgedQueue> = worsened((queue) =>
  Effect.gen(function* () {
    yield* queue.age({ finished: yield* size("finished"), scheduled: yield* size("scheduled") })
  })
)

const held: Sample<JobQueue> = worsened((queue, implementation, place) =>
  Effect.gen(function* () {
    const holder = yield* session(place.database)
    yield* inOrder(holder, ["begin isolation level repeatable read", "select 1"])
    const plan = steady(yield* size("rate"), yield* size("held"))
    yield* Effect.scoped(Effect.flatMap(latencies(implementation, place, queue), (follow) => follow(plan)))
  })
)

const idleCost: Sample<JobQueue> = Effect.fnUntraced(function* (implementation, place) {
  const queue = yield* implementation.open(place)
  const connection = yield* session(place.database)
  yield* inOrder(connection, ["create extension pg_stat_statements"])
  yield* queue.work(() => {})
  const seconds = yield* size("idle")
  const calls = Effect.map(
    rows(connection, Schema.Struct({ calls: Schema.Number }), statements),
    ([row]) => row?.calls ?? 0
  )
  yield* Effect.sleep("3 seconds")
  const before = yield* calls
  yield* Effect.sleep(seconds * 1000)
  return [((yield* calls) - before) / seconds]
})

const statements = `
  select coalesce(sum(calls), 0)::float8 as calls from pg_stat_statements
  where dbid = (select oid from pg_database where datname = current_database()) and query not like '%pg_stat_statements%'`

const memory: Sample<JobQueue> = Effect.fnUntraced(function* (implementation, place) {
  const queue = yield* implementation.open(place)
  const jobs = yield* size("memory")
  yield* drain(queue, 5_000)
  yield* enqueueRate(queue, jobs, 10_000)
  const start = (yield* settledMemory).heapUsed
  let middle = Number.NaN
  yield* drainRate(queue, jobs, (started) => {
    if (started !== Math.ceil(jobs / 2)) return
    globalThis.gc?.()
    middle = process.memoryUsage().heapUsed
  })
  const end = (yield* settledMemory).heapUsed
  return [end - start, middle - start, start].map((bytes) => bytes / 1e6)
})

const contender =
  <Queue>(sample: Sample<Queue>) =>
  (implementation: Implementation<Queue>): Contender => ({
    name: implementation.name,
    sample: Effect.scoped(
      Effect.gen(function* () {
        const { postgres, redis } = yield* servers
        return yield* sample(implementation, { database: yield* fresh(postgres), redis })
      })
    ).pipe(Effect.provideService(References.MinimumLogLevel, "Warn"))
  })

/** The figures of one sample, the first of which names the case. */
const compare = <Queue>(
  sample: Sample<Queue>,
  [first, ...also]: readonly [Figure, ...ReadonlyArray<Figure>],
  [subject, ...baselines]: readonly [Implementation<Queue>, ...ReadonlyArray<Implementation<Queue>>],
  rounds?: number
): Case => ({
  ...first,
  also,
  isolated: true,
  subject: contender(sample)(subject),
  baselines: baselines.map(contender(sample)),
  ...(rounds === undefined ? {} : { rounds })
})

const rate = (name: string, unit: string, ratios: Readonly<Record<string, number>> = {}): Figure => ({
  name,
  unit,
  higherIsBetter: true,
  target: null,
  ratios
})

const cost = (name: string, unit: string, target: number | null = null): Figure => ({
  name,
  unit,
  higherIsBetter: false,
  target
})

const slower = (name: string): readonly [Figure, ...ReadonlyArray<Figure>] => [
  rate(`${name}: throughput`, "jobs/s"),
  cost(`${name}: throughput, than before`, "times slower", 2),
  cost(`${name}: start at steady rate, median`, "ms"),
  cost(`${name}: start at steady rate, median, than before`, "times slower", 2),
  cost(`${name}: start at steady rate, p99`, "ms"),
  cost(`${name}: start at steady rate, p99, than before`, "times slower", 2)
]

const postgresPeers = [graphileWorker, pgBoss, persistedQueue]
const peers = hasRedis ? [...postgresPeers, bullMq] : postgresPeers

export const jobs: Suite = {
  name: "jobs",
  rounds: 3,
  sizes: {
    drain: 20_000,
    enqueue: 10_000,
    idleJobs: 60,
    rate: 1000,
    steady: 3,
    finished: 1_000_000,
    scheduled: 100_000,
    held: 20,
    idle: 20,
    memory: 100_000
  },
  shared,
  notes: [
    "One PostgreSQL with fsync, full_page_writes and synchronous_commit on; a fresh database per sample, workers in one process.",
    ...(hasRedis ? [] : ["BullMQ is left out: there is no redis-server on the PATH."]),
    [coppice, floor, bareInsert, notify, ...peers]
      .map(({ configuration, name }) => `- ${name}: ${configuration}`)
      .join("\n")
  ],
  cases: [
    compare(
      drained,
      [
        rate("drain", "jobs/s", {
          [floor.name]: 0.6,
          ...Object.fromEntries(postgresPeers.map(({ name }) => [name, 1]))
        }),
        rate("drain by a new process", "jobs/s")
      ],
      [coppice, floor, ...peers]
    ),
    compare<BulkQueue>(
      enqueued,
      [
        rate("enqueue in bulk", "jobs/s", { [bareInsert.name]: 1 / 1.5 }),
        rate("enqueue in bulk by a new process", "jobs/s")
      ],
      [coppice, bareInsert, ...peers]
    ),
    compare<SignalQueue>(
      startLatency,
      [
        cost("start on an idle queue, median", "ms", 3),
        cost("start on an idle queue, p99", "ms"),
        cost("start at steady rate, median", "ms"),
        cost("start at steady rate, p99", "ms", 25)
      ],
      [coppice, floor, notify, ...peers]
    ),
    compare(aged, slower("aged"), [coppice, floor, pgBoss], 1),
    compare(held, slower("held snapshot"), [coppice, floor], 1),
    compare(idleCost, [cost("statements of a quiet node", "statements/s", 2)], [coppice, ...postgresPeers], 1),
    compare(
      memory,
      [
        cost("memory: heap grown at the end", "MB", 5),
        cost("memory: heap grown half-way", "MB", 5),
        cost("memory: heap before", "MB")
      ],
      [coppice, graphileWorker, pgBoss],
      1
    )
  ]
}
