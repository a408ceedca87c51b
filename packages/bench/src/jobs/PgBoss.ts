/** pg-boss 12: large batches fetched without a pause while they come back full, LISTEN/NOTIFY for what comes after. */
import { Effect } from "effect"
import { PgBoss } from "pg-boss"
import { finds, inOrder, producerConnections, session } from "./Database.ts"
import type { AgedQueue, Implementation } from "./Implementation.ts"

export const pgBoss: Implementation<AgedQueue> = {
  name: "pg-boss",
  configuration:
    "12: useListenNotify, queue with notify, batchSize 500, burstWhenBatchFull, localConcurrency 2, pollingIntervalSeconds 0.5; keeps finished jobs",
  open: ({ database }) =>
    Effect.gen(function* () {
      const connection = yield* session(database)
      const boss = yield* start({
        connectionString: database,
        max: producerConnections,
        supervise: false,
        schedule: false
      })
      yield* Effect.promise(() => boss.createQueue("noop", { notify: true }))
      return {
        enqueue: (job) => Effect.promise(() => boss.send("noop", { n: job })),
        enqueueMany: (jobs) =>
          Effect.promise(() =>
            boss.insert(
              "noop",
              jobs.map((job) => ({ data: { n: job } }))
            )
          ),
        work: (started) =>
          Effect.gen(function* () {
            const worker = yield* start({ connectionString: database, max: 10, useListenNotify: true })
            yield* Effect.promise(() =>
              worker.work<{ readonly n: number }>(
                "noop",
                { batchSize: 500, burstWhenBatchFull: true, localConcurrency: 2, pollingIntervalSeconds: 0.5 },
                async (jobs) => {
                  for (const { data } of jobs) started(data.n)
                }
              )
            )
          }),
        busy: finds(
          connection,
          "select 1 from pgboss.job where name = 'noop' and state < 'completed' and start_after <= now() limit 1"
        ),
        age: ({ finished, scheduled }) => inOrder(connection, age(finished, scheduled))
      }
    })
}

const start = (options: ConstructorParameters<typeof PgBoss>[0] & object) =>
  Effect.acquireRelease(
    Effect.promise(() => new PgBoss({ ...options, connectionTimeoutMillis: 60_000 }).on("error", fail).start()),
    (boss) => Effect.promise(() => boss.stop({ graceful: true, timeout: 10_000 }))
  )

// An error that nobody hears would leave a figure that means nothing: uncaught, it ends the sample's process.
const fail = (error: Error) => {
  throw error
}

const age = (finished: number, scheduled: number) => [
  `insert into pgboss.job (name, data, state, created_on, started_on, completed_on)
   select 'noop', jsonb_build_object('n', i), 'completed', ago, ago, ago
   from generate_series(1, ${finished}) i, lateral (select now() - i * interval '0.1 second' as ago)`,
  `insert into pgboss.job (name, data, start_after)
   select 'noop', jsonb_build_object('n', i), now() + interval '1 day' + i * interval '1 second'
   from generate_series(1, ${scheduled}) i`,
  "vacuum analyze pgboss.job"
]
