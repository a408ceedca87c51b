// Corners in which a handle could be told from the service: classes, what throws, and what the language does to objects.
import { assert, describe } from "@effect/vitest"
import { Context, Data, Effect, Exit, Stream } from "effect"
import { format, inspect } from "node:util"
import { fork } from "./fixtures/Box.ts"
import { rig } from "./fixtures/Rig.ts"
import { outcome, pass, scenario, settle } from "./fixtures/Scenario.ts"

describe("classes", () => {
  class Plain {
    readonly x = 1
  }
  class NotFound extends Data.TaggedError("NotFound")<{}> {}

  scenario("in a service, and a service that is one, are themselves", () =>
    Effect.gen(function* () {
      class Module extends Context.Service<
        Module,
        { readonly NotFound: typeof NotFound; readonly Plain: typeof Plain; readonly get: Effect.Effect<number> }
      >()("test/Module") {}
      class Constructor extends Context.Service<Constructor, typeof Plain>()("test/Constructor") {}
      const { crash, service } = yield* rig(Module, (n) => Effect.succeed({ NotFound, Plain, get: Effect.succeed(n) }))
      const one = yield* rig(Constructor, () => Effect.succeed(Plain))
      for (let n = 1; n < 3; n++) {
        assert.strictEqual(new service.Plain().x, 1)
        assert.instanceOf(new Plain(), service.Plain)
        assert.strictEqual(new service.NotFound()._tag, "NotFound")
        assert.strictEqual(new one.service().x, 1)
        yield* crash
        yield* one.crash
      }
      assert.strictEqual(yield* service.get, 3)
    })
  )
})

describe("a method that throws while the child is down", () => {
  interface Throws {
    readonly parse: (text: string) => unknown
    readonly find: (id: number) => Effect.Effect<string>
    readonly list: (id: number) => Stream.Stream<string>
  }
  class Throwing extends Context.Service<Throwing, Throws>()("test/Throwing") {}

  const make = (n: number): Effect.Effect<Throws> =>
    Effect.sync(() => {
      const answer = (id: number) => {
        if (id === n) throw new Error(`not on ${n}`)
        return `${id} on ${n}`
      }
      return {
        parse: (text) => JSON.parse(text) as unknown,
        find: (id) => Effect.succeed(answer(id)),
        list: (id) => Stream.make(answer(id))
      }
    })

  scenario("throws, unless it is known to answer with an effect or a stream: that is the next instance's", () =>
    Effect.gen(function* () {
      const { actor, crash, service } = yield* rig(Throwing, make)
      assert.throws(() => service.parse("{"), SyntaxError)
      assert.throws(() => service.find(1), "not on 1")
      actor.startTakes = "1 second"
      yield* crash
      assert.throws(() => service.parse("{"), SyntaxError)
      assert.throws(() => service.find(1), "not on 1", "nobody knows yet what it answers with")
      yield* pass("1 second")
      assert.strictEqual(yield* service.find(1), "1 on 2")
      yield* Stream.runDrain(service.list(1))
      yield* crash
      assert.throws(() => service.parse("{"), SyntaxError)
      const found = yield* fork(service.find(2))
      const listed = yield* fork(Stream.runCollect(service.list(2)))
      yield* pass("1 second")
      assert.deepStrictEqual(outcome(found), Exit.succeed("2 on 3"))
      assert.deepStrictEqual(outcome(listed), Exit.succeed(["2 on 3"]))
    })
  )
})

describe("what the language does to any object", () => {
  interface Fields {
    a?: number
    readonly list: ReadonlyArray<number>
    readonly method: () => Effect.Effect<number>
  }
  class Plain extends Context.Service<Plain, Fields>()("test/Fields") {}
  const make = (n: number): Effect.Effect<Fields> =>
    Effect.succeed({ a: n, list: [n], method: () => Effect.succeed(n) })

  scenario("printing it shows the running instance", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Plain, make)
      const bare = yield* rig(Context.Service<() => number>("test/Bare"), () => Effect.succeed(() => 1))
      assert.strictEqual(inspect(service), "{ a: 1, list: [ 1 ], method: [Function: method] }")
      yield* crash
      assert.include(format("%o", service), "a: 2")
      assert.include(inspect({ nested: { service } }, { depth: 4 }), "a: 2")
      assert.include(inspect(bare.service), "[Function")
      assert.strictEqual(JSON.stringify(service), '{"a":2,"list":[2]}')
      assert.deepStrictEqual(Reflect.ownKeys(service), ["a", "list", "method"])
    })
  )

  scenario("deleting and defining a property changes the running instance", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Plain, make)
      delete service.a
      assert.isFalse("a" in service)
      Object.defineProperty(service, "method", { configurable: true, value: () => Effect.succeed(-1) })
      assert.strictEqual(yield* service.method(), -1)
      yield* crash
      assert.strictEqual(service.a, 2)
      assert.strictEqual(yield* service.method(), 2)
      yield* settle
    })
  )

  scenario("freezing it, or giving it another prototype, is refused aloud", () =>
    Effect.gen(function* () {
      const { service } = yield* rig(Plain, make)
      assert.throws(() => Object.freeze(service), TypeError)
      assert.throws(() => Object.setPrototypeOf(service, Array.prototype), TypeError)
      assert.throws(() => structuredClone(service), "could not be cloned")
    })
  )
})
