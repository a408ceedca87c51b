/** The PubSub of this workspace between nodes that share a database. */
import { PubSub, Topic } from "@coppice/pubsub"
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"
import type { Implementation, Place, SignalQueue } from "../jobs/Implementation.ts"
import * as Producer from "../jobs/Producer.ts"
import { createTable, insert, type Writes, writers } from "./Writes.ts"

const Numbers = Topic.make("numbers", { event: Schema.Int })

/** Enqueueing is broadcasting, and working is to be subscribed on another node. */
export const coppicePubSub: Implementation<SignalQueue> = {
  name: "Coppice PubSub",
  configuration: "PubSub.layerPostgres() and subscriptions by default: a node in each of two threads",
  open: (place) =>
    Effect.gen(function* () {
      const services = yield* Layer.build(node(place))
      const pubsub = Context.get(services, PubSub.PubSub)
      return {
        enqueue: (event) => Effect.orDie(pubsub.broadcast(Numbers, event)),
        work: (received) =>
          Effect.gen(function* () {
            const { messages } = yield* pubsub.subscribe(Numbers)
            yield* Effect.forkScoped(
              Stream.runForEachArray(messages, (chunk) =>
                Effect.sync(() => {
                  for (const message of chunk) {
                    if (message._tag === "Event") received(message.event)
                    else fail(new Error(`events were lost, so this figure means nothing: ${JSON.stringify(message)}`))
                  }
                })
              )
            )
          })
      }
    })
}

/** Writes whose broadcasts leave after the commit. */
export const broadcasting: Implementation<Writes> = {
  name: coppicePubSub.name,
  configuration: "PubSub.broadcast inside sql.withTransaction, another node in another thread; until all has left",
  open: (place) =>
    Effect.gen(function* () {
      const services = yield* Layer.build(node(place))
      // The other node, in a thread that does nothing else.
      yield* Producer.make(coppicePubSub, place)
      const sql = Context.get(services, SqlClient.SqlClient)
      const pubsub = Context.get(services, PubSub.PubSub)
      yield* createTable(sql)
      return {
        write: (n) => Effect.orDie(sql.withTransaction(Effect.andThen(insert(sql, n), pubsub.broadcast(Numbers, n)))),
        settled: pubsub.flush
      }
    })
}

const node = ({ database }: Place) =>
  PubSub.layerPostgres().pipe(
    Layer.provideMerge(PgClient.layer({ url: Redacted.make(database), maxConnections: writers })),
    Layer.orDie
  )

// Uncaught, it ends the sample's process.
const fail = (error: Error) =>
  queueMicrotask(() => {
    throw error
  })
