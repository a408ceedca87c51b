/**
 * What a queue with these guarantees costs at least: hand-written statements, nothing else.
 *
 * Jobs are claimed in batches under a lease, and settled in batches that check the lease and move the row to a history. Two sessions do
 * it, so that the next batch is claimed while the last one is settled. A notification wakes an idle queue.
 */
import type { PgConnection } from "@effect/sql-pg"
import { Effect, Fiber, Latch, Queue } from "effect"
import { finds, inOrder, pool, session } from "./Database.ts"
import type { AgedQueue, Implementation } from "./Implementation.ts"

export const floor: Implementation<AgedQueue> = {
  name: "hand-written SQL",
  configuration: "batches of 500, two sessions, LISTEN, history kept",
  open: ({ database }) =>
    Effect.gen(function* () {
      const connection = yield* session(database)
      if (!(yield* finds(connection, "select 1 from pg_namespace where nspname = 'floor'")))
        yield* inOrder(connection, schema)
      const producers = yield* pool(database)
      const tell = yield* teller(database)
      return {
        enqueue: (job) =>
          producers
            .use((producer) => producer.query(insert, [[JSON.stringify({ n: job })]]))
            .pipe(Effect.orDie, Effect.andThen(tell)),
        enqueueMany: (jobs) =>
          connection.query(insert, [jobs.map((job) => JSON.stringify({ n: job }))]).pipe(Effect.orDie),
        work: (started) => work(database, started),
        busy: finds(connection, "select 1 from floor.jobs where state in ('available', 'executing') limit 1"),
        age: ({ finished, scheduled }) => inOrder(connection, age(finished, scheduled))
      }
    })
}

const batch = 500
const node = "00000000-0000-4000-8000-000000000001"

/** Notifies after the commit, which would otherwise wait for every other one, and once for all that comes meanwhile. */
const teller = Effect.fnUntraced(function* (database: string) {
  const connection = yield* session(database)
  const news = Latch.makeUnsafe()
  yield* news.await.pipe(
    Effect.andThen(Effect.sync(() => news.closeUnsafe())),
    Effect.andThen(Effect.orDie(connection.query("select pg_notify('floor', '')"))),
    Effect.forever,
    Effect.forkScoped
  )
  return news.open
})

const work = Effect.fnUntraced(function* (database: string, started: (job: number) => void) {
  const claims = yield* session(database)
  const settles = yield* session(database)
  const notifications = yield* Effect.orDie(Effect.flatMap(session(database), (listener) => listener.listen("floor")))
  const wake = Latch.makeUnsafe()
  yield* Queue.take(notifications).pipe(
    Effect.andThen(Effect.sync(() => wake.openUnsafe())),
    Effect.forever,
    Effect.forkScoped
  )
  const claimNext = Effect.suspend(() => {
    wake.closeUnsafe()
    return Effect.orDie(Effect.map(claims.query(claim, ["default", batch, node]), claimedRows))
  })
  const life = { stopping: false }
  const loop = Effect.gen(function* () {
    let settling: Fiber.Fiber<unknown> = yield* Effect.forkChild(Effect.void)
    let rows = yield* claimNext
    while (!life.stopping || rows.length > 0) {
      if (rows.length === 0) {
        yield* Effect.raceFirst(wake.await, Effect.sleep("1 second"))
        rows = yield* claimNext
        continue
      }
      const next = yield* Effect.forkChild(claimNext, { startImmediately: true })
      for (const { args } of rows) started(args.n)
      yield* Fiber.join(settling)
      settling = yield* Effect.forkChild(settleAll(settles, rows), { startImmediately: true })
      rows = yield* Fiber.join(next)
    }
    yield* Fiber.join(settling)
  })
  const fiber = yield* Effect.forkScoped(loop)
  // What is claimed is settled before the sessions end.
  yield* Effect.addFinalizer(() => {
    life.stopping = true
    wake.openUnsafe()
    return Fiber.await(fiber)
  })
})

interface Claimed {
  readonly id: bigint
  readonly lease: bigint
  readonly args: { readonly n: number }
}

// The columns and their types stand in the statement; to check them would be part of what is measured.
const claimedRows = ({ rows }: PgConnection.Result) => rows as ReadonlyArray<unknown> as ReadonlyArray<Claimed>

const settleAll = (connection: PgConnection.PgConnection, jobs: ReadonlyArray<Claimed>) =>
  Effect.orDie(connection.query(settle, [jobs.map((job) => job.id), jobs.map((job) => job.lease)]))

const schema = [
  "create schema floor",
  `create table floor.jobs (
    id bigint generated always as identity primary key,
    state text not null default 'available',
    queue text not null,
    worker text not null,
    priority smallint not null default 0,
    attempt int not null default 0,
    max_attempts int not null default 20,
    lease bigint not null default 0,
    leased_by uuid,
    scheduled_at timestamptz not null default now(),
    attempted_at timestamptz,
    inserted_at timestamptz not null default now(),
    args jsonb not null,
    meta jsonb not null default '{}',
    errors jsonb not null default '[]'
  ) with (
    fillfactor = 75,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
  )`,
  "create index on floor.jobs (queue, priority, scheduled_at, id) where state = 'available'",
  "create index on floor.jobs (scheduled_at, id) where state in ('scheduled', 'retryable')",
  "create index on floor.jobs (leased_by, id) where state = 'executing'",
  "create table floor.history (like floor.jobs, finished_at timestamptz not null) partition by range (finished_at)",
  "create table floor.history_default partition of floor.history default",
  "create index on floor.history (id)",
  "create index on floor.history (queue, finished_at)"
]

const insert = "insert into floor.jobs (queue, worker, args) select 'default', 'Noop', unnest($1::text[])::jsonb"

const claim = `
  with next as materialized (
    select id from floor.jobs where state = 'available' and queue = $1
    order by priority, scheduled_at, id limit $2 for no key update skip locked
  )
  update floor.jobs job
  set state = 'executing', attempt = attempt + 1, lease = lease + 1, leased_by = $3, attempted_at = now()
  from next where job.id = next.id
  returning job.id, job.lease, job.attempt, job.max_attempts, job.worker, job.args`

const columns = `queue, worker, priority, attempt, max_attempts, lease, leased_by, scheduled_at, attempted_at, inserted_at, args,
  meta, errors`

const settle = `
  with done as (
    delete from floor.jobs job using unnest($1::bigint[], $2::bigint[]) mine (id, lease)
    where job.id = mine.id and job.lease = mine.lease and job.state = 'executing'
    returning job.*
  )
  insert into floor.history select id, 'completed', ${columns}, now() from done returning id`

const age = (finished: number, scheduled: number) => [
  `insert into floor.history
   select -i, 'completed', 'default', 'Noop', 0, 1, 20, 1, '${node}', now(), now(), now(), jsonb_build_object('n', i), '{}', '[]',
     now() - i * interval '1 second'
   from generate_series(1, ${finished}) i`,
  `insert into floor.jobs (state, queue, worker, scheduled_at, args)
   select 'scheduled', 'default', 'Noop', now() + interval '1 day' + i * interval '1 second', jsonb_build_object('n', i)
   from generate_series(1, ${scheduled}) i`,
  "vacuum analyze floor.jobs",
  "vacuum analyze floor.history"
]
