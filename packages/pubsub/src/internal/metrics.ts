/** What an adapter counts. */
import { type Context, Effect, Metric } from "effect"
import type { Receiver } from "../Adapter.ts"

const counter = (name: string, description: string) => Metric.counter(name, { description, incremental: true })

const sent = counter("coppice_pubsub_sent_total", "Messages that have left for other nodes")
const received = counter("coppice_pubsub_received_total", "Messages of other nodes")
const batches = counter(
  "coppice_pubsub_batches_total",
  "Statements, or commands at once, that carried messages to other nodes"
)
const unsent = counter("coppice_pubsub_unsent_total", "Messages that were given up before they had left")
const gaps = counter("coppice_pubsub_gaps_total", "Times that messages of other nodes may have been missed, by reason")
const malformed = counter("coppice_pubsub_malformed_total", "What others wrote to the channel, and no node did")
const reconnects = counter("coppice_pubsub_reconnects_total", "Connections that were lost, by what they were for")

export interface Metrics {
  readonly sent: (messages: number) => void
  readonly received: (messages: number) => void
  readonly unsent: (messages: number) => void
  readonly gap: (reason: string) => void
  readonly malformed: () => void
  readonly reconnect: (connection: "listener" | "sender") => void
}

export const metrics: Effect.Effect<Metrics> = Effect.map(
  Effect.context<never>(),
  (services: Context.Context<never>): Metrics => ({
    sent: (messages) => {
      batches.updateUnsafe(1, services)
      sent.updateUnsafe(messages, services)
    },
    received: (messages) => received.updateUnsafe(messages, services),
    unsent: (messages) => unsent.updateUnsafe(messages, services),
    gap: (reason) => Metric.withAttributes(gaps, { reason }).updateUnsafe(1, services),
    malformed: () => malformed.updateUnsafe(1, services),
    reconnect: (connection) => Metric.withAttributes(reconnects, { connection }).updateUnsafe(1, services)
  })
)

/** Counts what a receiver is given. */
export const counting = (receiver: Receiver, metrics: Metrics) => {
  let received = 0
  return {
    receiver: {
      deliver: (message, from) => {
        received++
        receiver.deliver(message, from)
      },
      gap: (reason) => {
        metrics.gap(reason)
        receiver.gap(reason)
      },
      status: receiver.status
    } satisfies Receiver,
    /** How many messages came since it was asked last. */
    take: () => {
      const count = received
      received = 0
      return count
    }
  }
}
