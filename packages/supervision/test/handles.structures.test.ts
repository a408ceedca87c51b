// Handles of what Effect's own modules made: their functions, which read and write the members, must not notice.
import { assert, describe } from "@effect/vitest"
import { Context, Effect, Exit, type Fiber, Pipeable, Pool, Stream } from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import { fork } from "./fixtures/Box.ts"
import { rig } from "./fixtures/Rig.ts"
import { outcome, pass, scenario, settle } from "./fixtures/Scenario.ts"

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

  scenario("shows parts that know each other", () =>
    Effect.gen(function* () {
      class APool extends Context.Service<APool, Pool.Pool<number>>()("test/KnownParts") {}
      const { crash, service } = yield* rig(APool, (n) => Pool.make({ acquire: Effect.succeed(n), size: 1 }))
      for (let n = 1; n < 3; n++) {
        yield* settle
        const [item] = service.state.items
        assert.isDefined(item)
        assert.strictEqual(service.state.availableHead, item)
        yield* crash
      }
    })
  )

  scenario("keeps its books, whoever takes, gives back and invalidates at once", () =>
    Effect.gen(function* () {
      class Busy extends Context.Service<Busy, Pool.Pool<object>>()("test/Busy") {}
      const live = new Set<object>()
      const { crash, service } = yield* rig(Busy, () => {
        live.clear()
        const acquire = Effect.sync(() => {
          const item = {}
          live.add(item)
          return item
        })
        return Pool.makeWithTTL({
          acquire: Effect.acquireRelease(acquire, (item) => Effect.sync(() => live.delete(item))),
          min: 1,
          max: 4,
          concurrency: 2,
          timeToLive: "1 second"
        })
      })
      const use = (n: number) =>
        Effect.scoped(
          Effect.gen(function* () {
            const item = yield* Pool.get(service)
            assert.isTrue(live.has(item))
            yield* Effect.sleep(1 + (n % 7))
            if (n % 5 === 0) yield* Pool.invalidate(service, item)
          })
        )
      for (let round = 0; round < 3; round++) {
        const users = yield* Effect.forEach(
          Array.from({ length: 100 }, (_, n) => n),
          (n) => fork(use(n))
        )
        for (let ms = 0; ms < 200; ms++) yield* pass(1)
        for (const user of users) assert.deepStrictEqual(outcome(user), Exit.void)
        yield* pass("10 seconds")
        assert.strictEqual(live.size, 1, "what nobody uses any more is let go")
        yield* crash
      }
    })
  )
})

describe("what is piped from a handle", () => {
  scenario("is made of the handle: a derived HttpClient outlives the first instance", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(HttpClient.HttpClient, (n) =>
        Effect.gen(function* () {
          let open = true
          yield* Effect.addFinalizer(() => Effect.sync(() => (open = false)))
          return HttpClient.make((request) =>
            open
              ? Effect.succeed(HttpClientResponse.fromWeb(request, new Response(`${n} ${request.url}`)))
              : Effect.die(new Error("the agent is gone"))
          )
        })
      )
      const derived = service.pipe(
        HttpClient.mapRequest(HttpClientRequest.prependUrl("http://localhost")),
        HttpClient.filterStatusOk
      )
      for (let n = 1; n < 4; n++) {
        const response = yield* derived.get("/a")
        assert.strictEqual(yield* response.text, `${n} http://localhost/a`)
        yield* crash
      }
    })
  )

  scenario("is made of the handle also with private fields, and a `pipe` of another kind keeps its owner", () =>
    Effect.gen(function* () {
      class Private extends Pipeable.Class {
        readonly #n: number
        constructor(n: number) {
          super()
          this.#n = n
        }
        number() {
          return Effect.sync(() => this.#n)
        }
      }
      class Source {
        readonly #n: number
        constructor(n: number) {
          this.#n = n
        }
        pipe(to: Array<number>) {
          to.push(this.#n)
        }
      }
      const one = yield* rig(Context.Service<Private>("test/Private"), (n) => Effect.sync(() => new Private(n)))
      const two = yield* rig(Context.Service<Source>("test/Source"), (n) => Effect.sync(() => new Source(n)))
      const derived = one.service.pipe((it) => ({ number: Effect.map(it.number(), (n) => n * 10) }))
      const to: Array<number> = []
      two.service.pipe(to)
      yield* one.crash
      yield* two.crash
      assert.strictEqual(yield* derived.number, 20)
      two.service.pipe(to)
      assert.deepStrictEqual(to, [1, 2])
    })
  )
})
