// Handles of what Effect's own modules made: their functions, which read and write the members, must not notice.
import { assert, describe } from "@effect/vitest"
import { Context, Effect, type Fiber, Pool, Stream } from "effect"
import { rig } from "./fixtures/Rig.ts"
import { scenario, settle } from "./fixtures/Scenario.ts"

describe("what was read from a handle", () => {
  interface Swaps {
    callback: (() => string) | undefined
    effect: Effect.Effect<string> | undefined
    stream: Stream.Stream<string> | undefined
    nested: { readonly name: () => string } | undefined
    swap(): void
  }
  class Swapping extends Context.Service<Swapping, Swaps>()("test/Swapping") {}

  class Made implements Swaps {
    readonly name: string
    callback: Swaps["callback"]
    effect: Swaps["effect"]
    stream: Swaps["stream"]
    nested: Swaps["nested"]
    constructor(n: number) {
      this.name = `first of ${n}`
      this.callback = () => this.name
      this.effect = Effect.sync(() => this.name)
      this.stream = Stream.sync(() => this.name)
      this.nested = { name: () => this.name }
    }
    swap() {
      this.callback = undefined
      this.effect = undefined
      this.stream = undefined
      this.nested = undefined
    }
  }

  scenario("stays that very function, effect, stream or object while its instance is there", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Swapping, (n) => Effect.sync(() => new Made(n)))
      const { callback, effect, nested, stream } = service
      const { swap } = service
      const read = function* () {
        return [
          callback?.(),
          yield* effect ?? Effect.succeed("none"),
          ...(yield* Stream.runCollect(stream ?? Stream.empty)),
          nested?.name()
        ]
      }
      swap()
      assert.isUndefined(service.callback)
      assert.deepStrictEqual(yield* Effect.gen(read), Array(4).fill("first of 1"))
      yield* crash
      assert.deepStrictEqual(yield* Effect.gen(read), Array(4).fill("first of 2"), "by its name on another instance")
    })
  )
})

describe("a handle of a Pool", () => {
  scenario("hands out, shares and takes back items, on each instance", () =>
    Effect.gen(function* () {
      class APool extends Context.Service<APool, Pool.Pool<string>>()("test/APool") {}
      const { crash, service } = yield* rig(APool, (n) => {
        let items = 0
        return Pool.make({ acquire: Effect.sync(() => `${n}.${++items}`), size: 2 })
      })
      for (let n = 1; n < 4; n++) {
        const items = yield* Effect.scoped(Effect.all([Pool.get(service), Pool.get(service)]))
        assert.deepStrictEqual(items.toSorted(), [`${n}.1`, `${n}.2`])
        const again = yield* Effect.scoped(
          Effect.gen(function* () {
            const held = yield* Effect.all([Pool.get(service), Pool.get(service)])
            const third: Fiber.Fiber<string> = yield* Effect.forkChild(Effect.scoped(Pool.get(service)))
            yield* settle
            assert.isUndefined(third.pollUnsafe(), "both items are taken")
            return [held, third] as const
          })
        )
        yield* settle
        assert.isDefined(again[1].pollUnsafe(), "served when they are given back")
        yield* Effect.scoped(Effect.flatMap(Pool.get(service), (item) => Pool.invalidate(service, item)))
        assert.match(yield* Effect.scoped(Pool.get(service)), new RegExp(`^${n}\\.`))
        yield* crash
      }
    })
  )
})
