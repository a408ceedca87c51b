/** The queue of this workspace, as the application of its guide runs it. */
import { Jobs, Migrations, Worker } from "@coppice/jobs"
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted, Schema } from "effect"
import { finds, inOrder, producerConnections, session } from "./Database.ts"
import type { AgedQueue, Implementation } from "./Implementation.ts"

export const coppice: Implementation<AgedQueue> = {
  name: "Coppice",
  configuration: "queues { default: 100 }, everything else by default; history kept",
  open: ({ database }) =>
    Effect.gen(function* () {
      const connection = yield* session(database)
      const client = PgClient.layer({ url: Redacted.make(database), maxConnections: producerConnections })
      const services = yield* Layer.build(Layer.orDie(Jobs.layerClient.pipe(Layer.provideMerge(client))))
      yield* Effect.orDie(Effect.provide(Migrations.run, services))
      const jobs = Context.get(services, Jobs.Jobs)
      return {
        enqueue: (job) => Effect.orDie(jobs.enqueue(Noop.job({ n: job }))),
        enqueueMany: (numbers) => Effect.orDie(jobs.enqueueMany(numbers.map((n) => Noop.job({ n })))),
        work: (started) => {
          const handler = Noop.toLayer(Effect.succeed(({ args }) => Effect.sync(() => started(args.n))))
          const node = Jobs.layer({ queues: { default: 100 }, workers: [handler] })
          return Layer.build(Layer.fresh(Layer.orDie(Layer.provide(node, client))))
        },
        busy: finds(connection, "select 1 from jobs.jobs where state in ('available', 'executing') limit 1"),
        age: ({ finished, scheduled }) => inOrder(connection, age(finished, scheduled))
      }
    })
}

class Noop extends Worker.Service<Noop>()("Noop", { args: { n: Schema.Int } }) {}

const age = (finished: number, scheduled: number) => [
  `insert into jobs.jobs_history (id, state, finished_at, queue, worker, attempt, lease, attempted_at, args)
   select -i, 'completed', now() - i * interval '0.1 second', 'default', 'Noop', 1, 1, now(), jsonb_build_object('n', i)
   from generate_series(1, ${finished}) i`,
  `insert into jobs.jobs (state, queue, worker, scheduled_at, args)
   select 'scheduled', 'default', 'Noop', now() + interval '1 day' + i * interval '1 second', jsonb_build_object('n', i)
   from generate_series(1, ${scheduled}) i`,
  "vacuum analyze jobs.jobs",
  "vacuum analyze jobs.jobs_history"
]
