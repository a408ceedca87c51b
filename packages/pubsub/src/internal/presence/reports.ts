/** What presence tells of what it could not do: metrics, and a warning for what somebody should look at. */
import { type Cause, Clock, Context, Effect, Metric } from "effect"

const undecodable = Metric.counter("coppice_presence_undecodable_total", {
  description: "Entries of other nodes whose meta is not what this node knows, by presence",
  incremental: true
})
const fetchFailures = Metric.counter("coppice_presence_fetch_failures_total", {
  description: "Calls of fetch that failed or took too long, by presence",
  incremental: true
})
const asks = Metric.counter("coppice_presence_asks_total", {
  description: "How often this node asked others for their state because it missed something, by presence",
  incremental: true
})

export interface Reports {
  readonly undecodable: (node: string, cause: Cause.Cause<unknown>) => void
  readonly fetchFailed: (topic: unknown, cause: Cause.Cause<unknown>) => void
  readonly asked: () => void
}

/** One warning of a kind in this time. */
const quietMillis = 60_000

export const reportsOf = (presence: string, services: Context.Context<never>): Reports => {
  const clock = Context.get(services, Clock.Clock)
  const warned = new Map<string, number>()
  const count = (counter: Metric.Counter<number>) =>
    Metric.withAttributes(counter, { presence }).updateUnsafe(1, services)
  const warn = (text: string, kind: string, cause: Cause.Cause<unknown>) => {
    const now = clock.currentTimeMillisUnsafe()
    if (now < (warned.get(kind) ?? Number.NEGATIVE_INFINITY) + quietMillis) return
    warned.set(kind, now)
    Effect.runForkWith(services)(Effect.logWarning(text, cause))
  }
  return {
    undecodable: (node, cause) => {
      count(undecodable)
      warn(`An entry of ${presence} on node ${node} could not be decoded here, and was left out`, "undecodable", cause)
    },
    fetchFailed: (topic, cause) => {
      count(fetchFailures)
      warn(`fetch of ${presence} failed for ${String(topic)}: entries are given without what it knows`, "fetch", cause)
    },
    asked: () => count(asks)
  }
}
