/** The PubSub of this workspace on one node, with nothing but defaults. */
import { PubSub, Topic } from "@coppice/pubsub"
import { Effect, Layer, Schema, Stream } from "effect"
import type { Bus, StreamTopic } from "./Bus.ts"

const Numbers = Topic.make("numbers", { key: Schema.Int, event: Schema.Int })

export const coppice: Bus<StreamTopic> = {
  name: "Coppice",
  topics: (count) =>
    Effect.gen(function* () {
      const services = yield* Layer.build(PubSub.layerLocal)
      const provided = Effect.provideContext(services)
      return Array.from({ length: count }, (_, key) => {
        const topic = Numbers(key)
        const subscribe = provided(PubSub.subscribe(topic))
        return {
          broadcast: (first, end) =>
            Effect.gen(function* () {
              for (let event = first; event < end; event++) yield* PubSub.broadcast(topic, event)
            }).pipe(Effect.orDie, provided),
          subscribe,
          consume: (take) =>
            Effect.flatMap(subscribe, ({ events }) =>
              Effect.forkScoped(Stream.runForEachArray(events, (chunk) => Effect.sync(() => chunk.forEach(take))))
            ),
          consumeEach: (take) =>
            Effect.flatMap(subscribe, ({ events }) =>
              Effect.forkScoped(Stream.runForEach(events, (event) => Effect.sync(() => take(event))))
            )
        }
      })
    })
}
