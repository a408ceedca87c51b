/** What a node tells of events that it could not deliver: metrics, and a warning for what somebody should look at. */
import { type Cause, Effect, Metric } from "effect"
import type { Reports } from "./hub.ts"

const undecodable = Metric.counter("coppice_pubsub_undecodable_total", {
  description: "Events of other nodes that no subscriber here could decode, by topic name",
  incremental: true
})
const dropped = Metric.counter("coppice_pubsub_dropped_total", {
  description: "Events that slow subscriptions have lost, by topic name",
  incremental: true
})

/** One warning for each topic in this time. */
const quietMillis = 60_000

export const reports: Effect.Effect<Reports> = Effect.gen(function* () {
  const services = yield* Effect.context<never>()
  const clock = yield* Effect.clockWith(Effect.succeed)
  const warned = new Map<string, number>()
  const nameOf = (topic: string) => topic.split(":", 1)[0] ?? topic
  const warn = (topic: string, text: string, cause: Cause.Cause<unknown>) => {
    const key = nameOf(topic)
    const now = clock.currentTimeMillisUnsafe()
    if (now < (warned.get(key) ?? Number.NEGATIVE_INFINITY) + quietMillis) return
    warned.set(key, now)
    // Later, for a logger is anybody's code.
    Effect.runForkWith(services)(Effect.andThen(Effect.yieldNow, Effect.logWarning(text, cause)))
  }
  const lost = new Map<string, number>()
  const countLost = Effect.sync(() => {
    for (const [topic, events] of lost) {
      Metric.withAttributes(dropped, { topic: nameOf(topic) }).updateUnsafe(events, services)
    }
    lost.clear()
  })
  return {
    undecodable: (topic, from, cause) => {
      Metric.withAttributes(undecodable, { topic: nameOf(topic) }).updateUnsafe(1, services)
      warn(topic, `An event of ${topic} that node ${from} broadcast could not be decoded here, and was left out`, cause)
    },
    dropped: (topic, events) => {
      // Once for all that happens in a turn: a subscription that takes nothing is not to slow those who broadcast.
      if (lost.size === 0) Effect.runForkWith(services)(Effect.andThen(Effect.yieldNow, countLost))
      lost.set(topic, (lost.get(topic) ?? 0) + events)
    }
  }
})
