/** Effect's own `PubSub`, one ring that all subscribers of a topic share; `sliding`, which is the one that lets none of them stop the others. */
import { Effect, PubSub, Stream } from "effect"
import type { Bus, StreamTopic } from "./Bus.ts"

export const effectPubSub: Bus<StreamTopic> = {
  name: "Effect PubSub",
  topics: (count) =>
    Effect.forEach(Array.from({ length: count }), () =>
      Effect.map(PubSub.sliding<number>(1_024), (pubsub): StreamTopic => {
        const subscribe = PubSub.subscribe(pubsub)
        return {
          broadcast: (first, end) =>
            Effect.gen(function* () {
              for (let event = first; event < end; event++) yield* PubSub.publish(pubsub, event)
            }),
          subscribe,
          consume: (take) =>
            Effect.flatMap(subscribe, (subscription) =>
              Effect.forkScoped(
                Stream.runForEachArray(Stream.fromSubscription(subscription), (chunk) =>
                  Effect.sync(() => chunk.forEach(take))
                )
              )
            ),
          consumeEach: (take) =>
            Effect.flatMap(subscribe, (subscription) =>
              Effect.forkScoped(
                Stream.runForEach(Stream.fromSubscription(subscription), (event) => Effect.sync(() => take(event)))
              )
            )
        }
      })
    )
}
