/** graphile-worker 0.18 with the settings of its own performance test, in one process. */
import { Effect } from "effect"
import { Logger, makeWorkerUtils, run } from "graphile-worker"
import { finds, inOrder, producerConnections, session } from "./Database.ts"
import type { AgedQueue, Implementation } from "./Implementation.ts"

export const graphileWorker: Implementation<AgedQueue> = {
  name: "graphile-worker",
  configuration:
    "0.18: concurrentJobs 24, maxPoolSize 25, localQueue { size 500, refetchDelay 10 ms }, completeJobBatchDelay 0, failJobBatchDelay 0; keeps no history",
  open: ({ database }) =>
    Effect.gen(function* () {
      const connection = yield* session(database)
      const utils = yield* Effect.acquireRelease(
        Effect.promise(() =>
          makeWorkerUtils({ connectionString: database, maxPoolSize: producerConnections, logger: silent })
        ),
        (utils) => Effect.promise(async () => utils.release())
      )
      yield* Effect.promise(() => utils.migrate())
      return {
        enqueue: (job) => Effect.promise(() => utils.addJob("noop", { n: job })),
        enqueueMany: (jobs) =>
          Effect.promise(() => utils.addJobs(jobs.map((job) => ({ identifier: "noop", payload: { n: job } })))),
        work: (started) => work(database, started),
        busy: finds(connection, "select 1 from graphile_worker._private_jobs where run_at <= now() limit 1"),
        // It deletes what is finished, so that there is nothing to fill its table with but what is still to come.
        age: ({ scheduled }) =>
          inOrder(connection, [
            "insert into graphile_worker._private_tasks (identifier) values ('noop') on conflict do nothing",
            `insert into graphile_worker._private_jobs (task_id, payload, run_at)
             select id, json_build_object('n', i), now() + interval '1 day' + i * interval '1 second'
             from graphile_worker._private_tasks, generate_series(1, ${scheduled}) i where identifier = 'noop'`,
            "vacuum analyze graphile_worker._private_jobs"
          ])
      }
    })
}

const work = (database: string, started: (job: number) => void) =>
  Effect.acquireRelease(
    Effect.promise(() =>
      run({
        connectionString: database,
        maxPoolSize: 25,
        noHandleSignals: true,
        logger: silent,
        taskList: {
          noop: (payload) => {
            // What `addJob` was given above.
            started((payload as { readonly n: number }).n)
          }
        },
        preset: {
          worker: {
            concurrentJobs: 24,
            localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0
          }
        }
      })
    ),
    (runner) => Effect.promise(() => runner.stop())
  )

const silent = new Logger(() => () => {})
