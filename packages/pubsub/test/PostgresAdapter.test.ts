import { Postgres } from "@coppice/postgres"
import { PubSub } from "@coppice/pubsub"
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Layer, Stream } from "effect"
import { Numbers } from "./fixtures/nodes.ts"

const node = Effect.map(Layer.build(Layer.fresh(PubSub.layerPostgres())), (context) =>
  Context.get(context, PubSub.PubSub)
)

layer(Postgres.layerTest)("broadcasts through PGlite, while the test clock stands still", (it) => {
  it.effect("are heard by other nodes, small and large", () =>
    Effect.gen(function* () {
      const one = yield* node
      const two = yield* node
      const { events } = yield* two.subscribe(Numbers("all"))
      const bodies = ["a", "é".repeat(20_000), "b"]
      yield* Effect.forEach(bodies, (body, n) => one.broadcast(Numbers("all"), { n, body }))
      const heard = yield* Stream.runCollect(Stream.take(events, bodies.length))
      assert.deepStrictEqual(
        heard.map(({ body }) => body),
        bodies
      )
    }).pipe(Effect.scoped)
  )
})
