/** Effect's own `PersistedQueue` on Postgres: one taker per job that may run at a time, statements pipelined on few connections. */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, Schema } from "effect"
import { PersistedQueue } from "effect/persistence"
import { SqlClient } from "effect/sql"
import { finds, producerConnections, session } from "./Database.ts"
import type { Implementation, Place } from "./Implementation.ts"

export const persistedQueue: Implementation = {
  name: "Effect PersistedQueue",
  configuration:
    "effect 4.1: 100 takers, pollInterval 100 ms (it has no LISTEN), 10 connections; keeps finished jobs; in bulk: offers in one transaction",
  open: (place) =>
    Effect.gen(function* () {
      const connection = yield* session(place.database)
      const services = yield* Layer.build(client(place))
      const sql = yield* Effect.provide(SqlClient.SqlClient, services)
      const queue = yield* Effect.provide(make, services)
      const offer = (job: number) => Effect.orDie(queue.offer({ n: job }))
      return {
        enqueue: offer,
        enqueueMany: (jobs) => Effect.forEach(jobs, offer, { discard: true }).pipe(sql.withTransaction, Effect.orDie),
        work: (started) =>
          Effect.gen(function* () {
            const queue = yield* Effect.provide(make, yield* Layer.build(Layer.fresh(client(place))))
            const taker = Effect.orDie(
              Effect.forever(
                queue.take(({ n }) => Effect.sync(() => started(n))),
                { disableYield: true }
              )
            )
            for (let index = 0; index < 100; index++) yield* Effect.forkScoped(taker)
          }),
        busy: finds(connection, "select 1 from effect_queue where state = 'pending' and visible_at <= now() limit 1")
      }
    })
}

const make = PersistedQueue.make({ name: "noop", schema: Schema.Struct({ n: Schema.Int }) })

const client = ({ database }: Place) =>
  PersistedQueue.layer.pipe(
    Layer.provide(PersistedQueue.layerStoreSql({ pollInterval: "100 millis" })),
    Layer.provideMerge(PgClient.layer({ url: Redacted.make(database), maxConnections: producerConnections })),
    Layer.orDie
  )
