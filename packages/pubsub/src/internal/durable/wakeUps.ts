/**
 * Telling readers on all nodes that there is something to read. Nothing depends on it: who is not told finds it by polling.
 */
import { Effect, Latch, Schema, type Scope, Stream } from "effect"
import { PubSub, type Shape } from "../../PubSub.ts"
import * as Topic from "../../Topic.ts"

/** What is still to be told at the end waits so long for a PubSub that is down itself. */
const lastWordsMillis = 1_000

/** A topic of its own for each durable topic, by its id. */
const Wake = Topic.make("~durable", { key: Schema.String, event: Schema.Literal(1) })

export interface WakeUps {
  /** Wakes the readers of a topic soon, once for all that was said until then. */
  readonly wake: (topic: string) => void
  /** Waits until somebody wakes the readers of a topic. */
  readonly listen: (topic: string) => Effect.Effect<Listener, never, Scope.Scope>
}

export interface Listener {
  /** Forgets what was said before: to be run before one looks. */
  readonly reset: Effect.Effect<void>
  /** Waits until somebody wakes, or was waking since the last `reset`, but not longer than so many milliseconds. */
  readonly wait: (millis: number) => Effect.Effect<void>
}

export const make = (pubsub: Shape): Effect.Effect<WakeUps, never, Scope.Scope> =>
  Effect.gen(function* () {
    const said = new Set<string>()
    const latch = Latch.makeUnsafe(false)
    const tell = Effect.suspend(() => {
      latch.closeUnsafe()
      const topics = Array.from(said)
      said.clear()
      return Effect.forEach(topics, (topic) => pubsub.broadcastNow(Wake(topic), 1), { discard: true })
    }).pipe(Effect.catchCause((cause) => Effect.logDebug("Readers were not woken, and look when they poll", cause)))
    // What is published one after the other is told together.
    yield* Effect.forkScoped(Effect.forever(latch.await.pipe(Effect.andThen(Effect.yieldNow), Effect.andThen(tell))))
    // Who was told last may wait for the poll of another node otherwise.
    yield* Effect.addFinalizer(() => Effect.interruptible(Effect.timeoutOption(tell, lastWordsMillis)))
    return {
      wake: (topic) => {
        said.add(topic)
        latch.openUnsafe()
      },
      listen: Effect.fnUntraced(function* (topic) {
        const woken = Latch.makeUnsafe(false)
        // Whoever reads need not know of the PubSub that is to take over the subscription when this one crashes.
        const { messages } = yield* Effect.provideService(
          pubsub.subscribe(Wake(topic), { capacity: 1 }),
          PubSub,
          pubsub
        )
        // An event, that some were lost, or that some may be: each is a reason to look.
        yield* Effect.forkScoped(
          Stream.runForEach(Stream.orDie(messages), () => Effect.sync(() => woken.openUnsafe())),
          { startImmediately: true }
        )
        return {
          reset: Effect.sync(() => woken.closeUnsafe()),
          wait: (millis) => Effect.asVoid(Effect.timeoutOption(woken.await, millis))
        }
      })
    }
  })
