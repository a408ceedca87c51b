/** BullMQ 6 on Redis: another kind of store, here for what it tells of the price of Postgres. */
import { type Job, Queue, Worker } from "bullmq"
import { Effect } from "effect"
import { Redis } from "ioredis"
import type { Implementation } from "./Implementation.ts"

export const bullMq: Implementation = {
  name: "BullMQ",
  configuration:
    "6, on Redis with appendonly yes, appendfsync everysec (less durable than Postgres): concurrency 100, removeOnComplete { count: 1000 }",
  open: ({ database, redis }) =>
    Effect.gen(function* () {
      const connection = yield* connect(redis)
      // Samples share the server, and no jobs.
      const prefix = new URL(database).pathname
      const queue = yield* Effect.acquireRelease(
        Effect.sync(() => new Queue<{ readonly n: number }>("noop", { connection, prefix })),
        (queue) => Effect.promise(() => queue.close())
      )
      return {
        enqueue: (job) => Effect.promise(() => queue.add("noop", { n: job })),
        enqueueMany: (jobs) =>
          Effect.promise(() => queue.addBulk(jobs.map((job) => ({ name: "noop", data: { n: job } })))),
        work: (started) =>
          Effect.gen(function* () {
            const connection = yield* connect(redis)
            const handler = async ({ data }: Job<{ readonly n: number }>) => started(data.n)
            const options = { connection, prefix, concurrency: 100, removeOnComplete: { count: 1000 } }
            yield* Effect.acquireRelease(
              Effect.sync(() => new Worker<{ readonly n: number }>("noop", handler, options)),
              (worker) => Effect.promise(() => worker.close())
            )
          }),
        busy: Effect.map(
          Effect.promise(() => queue.getJobCounts("active", "waiting", "prioritized")),
          (counts) => Object.values(counts).some((count) => count > 0)
        )
      }
    })
}

const connect = (path: string) =>
  Effect.acquireRelease(
    Effect.sync(() => new Redis(path, { maxRetriesPerRequest: null })),
    (redis) => Effect.sync(() => redis.disconnect())
  )
