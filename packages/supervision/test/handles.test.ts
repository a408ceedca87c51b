// What a handle looks like: whoever holds one should not be able to tell it from the service, except that it always
// reaches the running instance.
import { assert, describe } from "@effect/vitest"
import { Context, Effect, type Scope } from "effect"
import { rig } from "./fixtures/Rig.ts"
import { scenario } from "./fixtures/Scenario.ts"

describe("a handle's members", () => {
  class Plain extends Context.Service<
    Plain,
    {
      readonly method: (by: number) => Effect.Effect<number>
      readonly effect: Effect.Effect<number>
      readonly exit: Effect.Effect<number>
      readonly delayed: Effect.Effect<number>
      readonly synchronous: (by: number) => number
      readonly promise: () => Promise<number>
      readonly number: number
      readonly list: ReadonlyArray<number>
      readonly live: number
      readonly itself: unknown
      readonly curried: (a: number) => (b: number) => Effect.Effect<number>
      readonly optional?: (() => Effect.Effect<string>) | undefined
    }
  >()("test/Plain") {}

  const make = (n: number): Effect.Effect<Plain["Service"]> =>
    Effect.sync(() => {
      let reads = 0
      const it: Plain["Service"] = {
        method: (by) => Effect.sync(() => n * 100 + by),
        effect: Effect.sync(() => n),
        exit: Effect.succeed(n),
        delayed: Effect.andThen(
          Effect.yieldNow,
          Effect.sync(() => n)
        ),
        synchronous: (by) => n * 100 + by,
        promise: () => Promise.resolve(n),
        number: n,
        list: [n],
        get live() {
          return n * 100 + ++reads
        },
        curried: (a) => (b) => Effect.sync(() => n * 100 + a * 10 + b),
        get itself() {
          return it
        },
        ...(n === 2 ? { optional: () => Effect.succeed("two") } : {})
      }
      return it
    })

  const all = (service: Plain["Service"]) =>
    Effect.gen(function* () {
      return [
        yield* service.method(7),
        yield* service.effect,
        yield* service.exit,
        yield* service.delayed,
        service.synchronous(7),
        yield* Effect.promise(() => service.promise()),
        service.number,
        service.list[0],
        service.live,
        service.live,
        yield* service.curried(1)(2)
      ]
    })

  scenario("of every kind reach the running instance, before and after many restarts", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Plain, make)
      for (let n = 1; n < 20; n++) {
        const base = n * 100
        assert.deepStrictEqual(yield* all(service), [
          base + 7,
          n,
          n,
          n,
          base + 7,
          n,
          n,
          n,
          base + 1,
          base + 2,
          base + 12
        ])
        yield* crash
      }
    })
  )

  scenario("taken off it before a crash reach the new instance after it", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Plain, make)
      const { curried, delayed, effect, exit, method, synchronous } = service
      const call = method(7)
      const half = curried(1)
      const piped = effect.pipe(Effect.map((n) => n + 1000))
      yield* crash
      assert.deepStrictEqual(
        [
          yield* method(7),
          yield* effect,
          yield* exit,
          yield* delayed,
          synchronous(7),
          yield* call,
          yield* half(2),
          yield* piped
        ],
        [207, 2, 2, 2, 207, 207, 212, 1002]
      )
    })
  )

  scenario("are the same object every time they are asked for", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Plain, make)
      assert.strictEqual(service.method, service.method)
      assert.strictEqual(service.effect, service.effect)
      assert.strictEqual(service.list, service.list)
      assert.strictEqual(service.itself, service)
      yield* crash
      assert.strictEqual(service.method, service.method)
    })
  )

  scenario("that only some instances have appear and disappear with them", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Plain, make)
      assert.isFalse("optional" in service)
      assert.isUndefined(service.optional)
      yield* crash
      assert.isTrue("optional" in service)
      assert.strictEqual(yield* service.optional!(), "two")
      yield* crash
      assert.isUndefined(service.optional)
    })
  )

  scenario("are listed, spread and copied like the service's own", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Plain, make)
      const names = Object.keys(yield* make(1))
      assert.deepStrictEqual(Object.keys(service), names)
      assert.deepStrictEqual(Reflect.ownKeys(service), names)
      assert.isTrue("method" in service)
      assert.isFalse("nothing" in service)
      assert.isTrue(Object.hasOwn(service, "method"))
      assert.strictEqual(Object.getOwnPropertyDescriptor(service, "number")?.value, 1)
      assert.isUndefined(Object.getOwnPropertyDescriptor(service, "nothing"))
      const copy = { ...service, extra: 1 }
      yield* crash
      assert.strictEqual(yield* copy.method(1), 201)
      assert.strictEqual(JSON.stringify({ n: service.number, list: service.list }), '{"n":2,"list":[2]}')
    })
  )

  scenario("can be set, which changes the running instance and no later one", () =>
    Effect.gen(function* () {
      class Mutable extends Context.Service<Mutable, { value: number; readonly get: Effect.Effect<number> }>()(
        "test/Mutable"
      ) {}
      const { crash, service } = yield* rig(Mutable, (n) =>
        Effect.sync(() => {
          const it: Mutable["Service"] = { value: n, get: Effect.sync(() => it.value) }
          return it
        })
      )
      service.value = 42
      assert.strictEqual(yield* service.get, 42)
      yield* crash
      assert.strictEqual(service.value, 2)
    })
  )

  scenario("that throw or fail do so with the very same error, and a defect stays one", () =>
    Effect.gen(function* () {
      class Failing extends Context.Service<
        Failing,
        {
          readonly typed: Effect.Effect<never, Error>
          readonly defect: () => Effect.Effect<never>
          readonly throws: () => number
          readonly interrupts: Effect.Effect<never>
        }
      >()("test/Failing") {}
      const error = new Error("mine")
      const { service } = yield* rig(Failing, () =>
        Effect.succeed({
          typed: Effect.andThen(Effect.yieldNow, Effect.fail(error)),
          defect: () => Effect.andThen(Effect.yieldNow, Effect.die(error)),
          throws: () => {
            throw error
          },
          interrupts: Effect.andThen(Effect.yieldNow, Effect.interrupt)
        })
      )
      assert.strictEqual(yield* Effect.flip(service.typed), error)
      assert.strictEqual(yield* Effect.catchDefect(service.defect(), Effect.succeed), error)
      assert.throws(() => service.throws(), error)
      const exit = yield* Effect.exit(Effect.catchCause(service.interrupts, (cause) => Effect.succeed(cause)))
      assert.strictEqual(exit._tag, "Success")
    })
  )

  scenario("run with the services of their caller, and its scope", () =>
    Effect.gen(function* () {
      class Name extends Context.Service<Name, string>()("test/Name") {}
      class Greeter extends Context.Service<
        Greeter,
        {
          readonly greet: Effect.Effect<string, never, Name>
          readonly acquire: Effect.Effect<void, never, Scope.Scope>
        }
      >()("test/Greeter") {}
      const log: Array<string> = []
      const { service } = yield* rig(Greeter, () =>
        Effect.succeed({
          greet: Effect.gen(function* () {
            yield* Effect.yieldNow
            return `hello ${yield* Name}`
          }),
          acquire: Effect.acquireRelease(Effect.yieldNow, () => Effect.sync(() => log.push("released")))
        })
      )
      assert.strictEqual(yield* Effect.provideService(service.greet, Name, "Ada"), "hello Ada")
      yield* Effect.scoped(
        Effect.andThen(
          service.acquire,
          Effect.sync(() => log.push("used"))
        )
      )
      assert.deepStrictEqual(log, ["used", "released"])
    })
  )
})

describe("a handle of a class instance", () => {
  class Base {
    readonly #secret: number
    constructor(secret: number) {
      this.#secret = secret
    }
    inherited() {
      return Effect.sync(() => this.#secret)
    }
    static isBase(value: object): boolean {
      return #secret in value
    }
  }
  class Derived extends Base {
    #calls = 0
    readonly field = Effect.sync(() => ++this.#calls)
    readonly arrow = () => Effect.sync(() => this.#calls)
    get calls() {
      return this.#calls
    }
    set calls(value: number) {
      this.#calls = value
    }
    async later() {
      return this.#calls
    }
    self() {
      return this
    }
    [Symbol.iterator]() {
      return [this.#calls, 1, 2][Symbol.iterator]()
    }
  }
  class Private extends Context.Service<Private, Derived>()("test/Private") {}

  scenario("reaches private fields through methods, getters, setters, fields and symbols", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Private, (n) => Effect.sync(() => new Derived(n)))
      const { inherited } = service
      for (let n = 1; n < 4; n++) {
        assert.strictEqual(yield* inherited(), n)
        assert.strictEqual(yield* service.inherited(), n)
        assert.strictEqual(service.calls, 0)
        assert.strictEqual(yield* service.field, 1)
        assert.strictEqual(service.calls, 1)
        service.calls = 10
        assert.strictEqual(yield* service.arrow(), 10)
        assert.deepStrictEqual(Array.from(service), [10, 1, 2])
        assert.strictEqual(yield* Effect.promise(() => service.later()), 10)
        yield* crash
      }
    })
  )

  scenario("is an instance of its classes", () =>
    Effect.gen(function* () {
      const { service } = yield* rig(Private, (n) => Effect.sync(() => new Derived(n)))
      assert.instanceOf(service, Derived)
      assert.instanceOf(service, Base)
      assert.strictEqual(service.constructor, Derived)
      assert.strictEqual(Object.getPrototypeOf(service), Derived.prototype)
      assert.isFalse(Base.isBase(service), "a proxy has no private fields of its own")
    })
  )
})

describe("a handle of a callable service", () => {
  interface Tag {
    (strings: TemplateStringsArray, ...args: ReadonlyArray<unknown>): Effect.Effect<string>
    (name: string): { readonly name: string }
    readonly close: Effect.Effect<string>
    readonly nested: { readonly deep: { readonly call: (x: number) => Effect.Effect<string> } }
    readonly config: { readonly port: number }
    readonly safe: Tag
  }
  class Template extends Context.Service<Template, Tag>()("test/Template") {}

  const make = (n: number): Effect.Effect<Tag> =>
    Effect.sync(() => {
      const tag = (first: TemplateStringsArray | string, ...args: ReadonlyArray<unknown>) =>
        typeof first === "string" ? { name: first } : Effect.sync(() => `${n}: ${String.raw(first, ...args)}`)
      return Object.assign(tag, {
        close: Effect.sync(() => `closed ${n}`),
        nested: { deep: { call: (x: number) => Effect.sync(() => `${n}/${x}`) } },
        config: { port: 5000 + n },
        get safe() {
          return tag as never as Tag
        }
      }) as never
    })

  scenario("is called as a template tag and as a function, and has members at every depth", () =>
    Effect.gen(function* () {
      const { crash, service: sql } = yield* rig(Template, make)
      const { close, nested } = sql
      const { call } = nested.deep
      const statement = sql`select ${1} from ${"t"}`
      for (let n = 1; n < 4; n++) {
        assert.strictEqual(yield* sql`select ${1}`, `${n}: select 1`)
        assert.strictEqual(yield* statement, `${n}: select 1 from t`)
        assert.deepStrictEqual(sql("users"), { name: "users" })
        assert.strictEqual(yield* close, `closed ${n}`)
        assert.strictEqual(yield* sql.nested.deep.call(7), `${n}/7`)
        assert.strictEqual(yield* nested.deep.call(7), `${n}/7`)
        assert.strictEqual(yield* call(7), `${n}/7`)
        assert.strictEqual(sql.config.port, 5000 + n)
        assert.strictEqual(typeof sql, "function")
        yield* crash
      }
    })
  )

  scenario("that is a bare function is that function", () =>
    Effect.gen(function* () {
      class Add extends Context.Service<Add, (a: number, b: number) => Effect.Effect<number>>()("test/Add") {}
      const { crash, service: add } = yield* rig(Add, (n) =>
        Effect.succeed((a: number, b: number) => Effect.sync(() => n * 100 + a + b))
      )
      assert.strictEqual(yield* add(1, 2), 103)
      yield* crash
      assert.strictEqual(yield* add(1, 2), 203)
    })
  )
})
