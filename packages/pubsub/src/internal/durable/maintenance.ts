/**
 * Removing events that are too old, in batches, on one node at a time; what another node is at is left to it.
 *
 * As in Kafka events go when they are too old, whoever has not read them: a consumer that nobody runs any more must not fill
 * the disk. Who has missed some is told, and a consumer that is about to learn it is named in the log before.
 */
import { Effect, Metric } from "effect"
import type { Store } from "./store.ts"

/** How many events one transaction removes. */
const batch = 1_000

export const run = (store: Store, intervalMillis: number): Effect.Effect<never> => {
  const warned = new Set<string>()
  const pruneAll = Effect.gen(function* () {
    let sum = 0
    for (;;) {
      const pruned = yield* store.prune(batch)
      sum += pruned
      if (pruned < batch) break
      yield* Effect.yieldNow
    }
    if (sum > 0) yield* Metric.update(pruned, sum)
  })
  const warn = Effect.gen(function* () {
    const robbed = new Set<string>()
    for (const { consumer, topic } of yield* store.robbed) {
      const key = JSON.stringify([topic, consumer])
      robbed.add(key)
      if (warned.has(key)) continue
      warned.add(key)
      yield* Effect.logWarning(
        `Events of ${topic} have become too old and were removed before its consumer ${consumer} had read them: it learns`
          + " so when it goes on (onPruned); delete it if nobody runs it any more (DurableTopic.deleteConsumer)"
      )
    }
    for (const key of warned) if (!robbed.has(key)) warned.delete(key)
  })
  const round = store.remember.pipe(Effect.andThen(pruneAll), Effect.andThen(warn))
  return Effect.forever(
    Effect.andThen(
      // A defect as well: that of a database whose child was just restarted.
      Effect.catchCause(round, (cause) =>
        Effect.logWarning("Durable topics could not be cleaned up, and will be later", cause)
      ),
      Effect.sleep(intervalMillis)
    )
  )
}

const pruned = Metric.counter("coppice_pubsub_durable_pruned_total", {
  description: "Events of durable topics that this node has removed because of their age",
  incremental: true
})
