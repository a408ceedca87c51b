// Handles of services that are more or other than objects of functions.
import { Process } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import {
  Chunk,
  Context,
  Deferred,
  Duration,
  Effect,
  Equal,
  HashMap,
  Option,
  PubSub,
  Queue,
  Redacted,
  Ref,
  Schema,
  Stream
} from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, Statement } from "effect/sql"
import { rig } from "./fixtures/Rig.ts"
import { scenario } from "./fixtures/Scenario.ts"

describe("a handle of Effect's SqlClient", () => {
  const make = (n: number, log: Array<string>) =>
    Effect.suspend(() => {
      const run = (sql: string, params: ReadonlyArray<unknown>) =>
        Effect.sync(() => {
          log.push(`${n}: ${sql}${params.length > 0 ? ` <- ${params.join()}` : ""}`)
          return [{ n }]
        })
      const connection = {
        execute: run,
        executeRaw: run,
        executeUnprepared: run,
        executeValues: () => Effect.succeed([[n]]),
        executeValuesUnprepared: () => Effect.succeed([[n]]),
        executeStream: () => Stream.make({ n })
      }
      return SqlClient.make({
        acquirer: Effect.succeed(connection),
        compiler: Statement.makeCompilerSqlite(),
        driver: "fake",
        spanAttributes: []
      })
    }).pipe(Effect.provide(Reactivity.layer))

  scenario("runs statements, fragments, helpers, streams and transactions on the running instance", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const { crash, service: sql } = yield* rig(SqlClient.SqlClient, (n) => make(n, log))
      const { withTransaction } = sql
      const where = sql`a = ${1}`
      const before = sql<{ n: number }>`select * from ${sql("t")} where ${where}`
      for (let n = 1; n < 4; n++) {
        assert.deepStrictEqual(yield* before, [{ n }])
        assert.deepStrictEqual(yield* before.values, [[n]])
        assert.deepStrictEqual(yield* before.unprepared, [{ n }])
        assert.deepStrictEqual(yield* Stream.runCollect(before.stream), [{ n }])
        assert.deepStrictEqual(before.compile(), ['select * from "t" where a = ?', [1]])
        assert.deepStrictEqual(log.splice(0), [
          `${n}: select * from "t" where a = ? <- 1`,
          `${n}: select * from "t" where a = ? <- 1`
        ])
        yield* sql`insert into t ${sql.insert({ a: 1 })}`
        yield* sql`select 1 where ${sql.and([sql`a = 1`, sql.in("b", [1, 2])])}`
        assert.deepStrictEqual(log.splice(0), [
          `${n}: insert into t ("a") VALUES (?) <- 1`,
          `${n}: select 1 where (a = 1 AND "b" IN (?,?)) <- 1,2`
        ])
        yield* withTransaction(sql`in transaction`)
        yield* sql.safe`safe`
        yield* sql.withoutTransforms()`without`
        assert.deepStrictEqual(log.splice(0), [
          `${n}: BEGIN`,
          `${n}: in transaction`,
          `${n}: COMMIT`,
          `${n}: safe`,
          `${n}: without`
        ])
        const connection = yield* sql.reserve
        assert.deepStrictEqual(yield* connection.execute("reserved", [], undefined), [{ n }])
        log.length = 0
        yield* crash
      }
    })
  )

  scenario("knows its own fragments from parameters", () =>
    Effect.gen(function* () {
      const { service: sql } = yield* rig(SqlClient.SqlClient, (n) => make(n, []))
      assert.isTrue(Statement.isFragment(sql`x`))
      assert.strictEqual(sql.driver, "fake")
      assert.deepStrictEqual(sql`${sql`a`} ${sql.literal("b")} ${"c"}`.compile(), ["a b ?", ["c"]])
    })
  )
})

describe("streams of a handle", () => {
  class Source extends Context.Service<
    Source,
    {
      readonly stream: Stream.Stream<number>
      readonly method: (by: number) => Stream.Stream<number>
    }
  >()("test/Source") {}

  scenario("are the running instance's, as members and as answers of methods", () =>
    Effect.gen(function* () {
      const { crash, service } = yield* rig(Source, (n) =>
        Effect.succeed({ stream: Stream.make(n, n), method: (by) => Stream.make(n + by) })
      )
      const { method, stream } = service
      const asked = method(10)
      yield* crash
      assert.deepStrictEqual(yield* Stream.runCollect(stream), [2, 2])
      assert.deepStrictEqual(yield* Stream.runCollect(asked), [12])
      assert.deepStrictEqual(yield* Stream.runCollect(Stream.map(service.method(20), (n) => n * 2)), [44])
    })
  )
})

describe("services that are not plain objects", () => {
  scenario("an effect, a stream, and a primitive value", () =>
    Effect.gen(function* () {
      class AnEffect extends Context.Service<AnEffect, Effect.Effect<number>>()("test/AnEffect") {}
      class AStream extends Context.Service<AStream, Stream.Stream<number>>()("test/AStream") {}
      class AString extends Context.Service<AString, string>()("test/AString") {}
      const one = yield* rig(AnEffect, (n) => Effect.succeed(Effect.sync(() => n)))
      const two = yield* rig(AStream, (n) => Effect.succeed(Stream.make(n)))
      const three = yield* rig(AString, (n) => Effect.succeed(`v${n}`))
      yield* one.crash
      yield* two.crash
      yield* three.crash
      assert.strictEqual(yield* one.service, 2)
      assert.deepStrictEqual(yield* Stream.runCollect(two.service), [2])
      assert.strictEqual(three.service, "v1", "a primitive cannot be a handle: it stays what it was")
    })
  )

  scenario("Ref, Queue, PubSub and Deferred work through their own functions, on the running instance", () =>
    Effect.gen(function* () {
      class ARef extends Context.Service<ARef, Ref.Ref<number>>()("test/ARef") {}
      class AQueue extends Context.Service<AQueue, Queue.Queue<number>>()("test/AQueue") {}
      class APubSub extends Context.Service<APubSub, PubSub.PubSub<number>>()("test/APubSub") {}
      class ADeferred extends Context.Service<ADeferred, Deferred.Deferred<number>>()("test/ADeferred") {}
      const ref = yield* rig(ARef, (n) => Ref.make(n))
      const queue = yield* rig(AQueue, () => Queue.bounded<number>(4))
      const pubsub = yield* rig(APubSub, () => PubSub.bounded<number>(4))
      const deferred = yield* rig(ADeferred, () => Deferred.make<number>())
      for (const { crash } of [ref, queue, pubsub, deferred]) {
        yield* Ref.update(ref.service, (n) => n + 10)
        assert.include([11, 12], yield* Ref.get(ref.service))
        yield* Ref.update(ref.service, (n) => n - 10)
        yield* Queue.offer(queue.service, 1)
        assert.strictEqual(yield* Queue.size(queue.service), 1)
        assert.strictEqual(yield* Queue.take(queue.service), 1)
        yield* Effect.scoped(
          Effect.gen(function* () {
            const subscription = yield* PubSub.subscribe(pubsub.service)
            yield* PubSub.publish(pubsub.service, 7)
            assert.strictEqual(yield* PubSub.take(subscription), 7)
          })
        )
        yield* crash
      }
      assert.strictEqual(yield* Ref.get(ref.service), 2)
      const waiting = yield* Effect.forkChild(Deferred.await(deferred.service), { startImmediately: true })
      yield* Deferred.succeed(deferred.service, 5)
      assert.strictEqual(yield* waiting.pollUnsafe() ?? Effect.succeed(0), 5)
    })
  )

  scenario("data structures stay what they are to the functions of their modules", () =>
    Effect.gen(function* () {
      class AMap extends Context.Service<AMap, HashMap.HashMap<string, number>>()("test/AMap") {}
      class AnOption extends Context.Service<AnOption, Option.Option<number>>()("test/AnOption") {}
      class AChunk extends Context.Service<AChunk, Chunk.Chunk<number>>()("test/AChunk") {}
      class ADuration extends Context.Service<ADuration, Duration.Duration>()("test/ADuration") {}
      class ASet extends Context.Service<ASet, Set<number>>()("test/ASet") {}
      class AnArray extends Context.Service<AnArray, ReadonlyArray<number>>()("test/AnArray") {}
      const map = yield* rig(AMap, (n) => Effect.succeed(HashMap.make(["n", n])))
      const option = yield* rig(AnOption, (n) => Effect.succeed(Option.some(n)))
      const chunk = yield* rig(AChunk, (n) => Effect.succeed(Chunk.make(n, n)))
      const duration = yield* rig(ADuration, (n) => Effect.succeed(Duration.seconds(n)))
      const set = yield* rig(ASet, (n) => Effect.succeed(new Set([n])))
      const array = yield* rig(AnArray, (n) => Effect.succeed([n]))
      for (let n = 1; n < 3; n++) {
        assert.deepStrictEqual(HashMap.get(map.service, "n"), Option.some(n))
        assert.isTrue(HashMap.isHashMap(map.service))
        assert.isTrue(Equal.equals(HashMap.make(["n", n], ["m", 0]), HashMap.set(map.service, "m", 0)))
        assert.strictEqual(
          Option.getOrElse(option.service, () => 0),
          n
        )
        assert.isTrue(Option.isSome(option.service))
        assert.deepStrictEqual(Chunk.toReadonlyArray(chunk.service), [n, n])
        assert.strictEqual(Duration.toMillis(duration.service), n * 1000)
        assert.isTrue(set.service.has(n))
        assert.deepStrictEqual([...set.service], [n])
        assert.strictEqual(set.service.size, 1)
        assert.deepStrictEqual(
          array.service.map((x) => x + 1),
          [n + 1]
        )
        assert.isTrue(Array.isArray(array.service))
        for (const { crash } of [map, option, chunk, duration, set, array]) yield* crash
      }
    })
  )

  scenario("members that only the runtime itself can use are handed over as they are", () =>
    Effect.gen(function* () {
      class Native extends Context.Service<
        Native,
        {
          readonly bytes: Uint8Array
          readonly buffer: Buffer
          readonly view: DataView
          readonly signal: AbortSignal
          readonly url: URL
          readonly date: Date
          readonly map: Map<string, number>
          readonly error: Error
          readonly promise: Promise<number>
          readonly headers: Headers
          readonly encoder: InstanceType<typeof TextEncoder>
          readonly weak: WeakRef<object>
          readonly format: Intl.NumberFormat
          readonly search: URLSearchParams
          readonly boxed: { readonly of: string }
        }
      >()("test/Native") {}
      const { service } = yield* rig(Native, () =>
        Effect.sync(() => ({
          bytes: new Uint8Array([1, 2]),
          buffer: Buffer.from("ab"),
          view: new DataView(new ArrayBuffer(2)),
          signal: new AbortController().signal,
          url: new URL("http://localhost/x"),
          date: new Date(0),
          map: new Map([["a", 1]]),
          error: new TypeError("t"),
          promise: Promise.resolve(1),
          headers: new Headers({ a: "b" }),
          encoder: new TextEncoder(),
          weak: new WeakRef({}),
          format: new Intl.NumberFormat("en"),
          search: new URLSearchParams("a=b"),
          boxed: { of: "data" }
        }))
      )
      assert.strictEqual(Buffer.concat([service.bytes, service.buffer]).length, 4)
      assert.strictEqual(new Uint8Array(service.view.buffer).length, 2)
      assert.strictEqual(AbortSignal.any([service.signal]).aborted, false)
      assert.strictEqual(new URL("y", service.url).pathname, "/y")
      assert.strictEqual(new Date(service.date).getTime(), 0)
      assert.strictEqual(new Map(service.map).get("a"), 1)
      assert.strictEqual(Object.prototype.toString.call(service.error), "[object Error]")
      assert.strictEqual(yield* Effect.promise(() => service.promise), 1)
      assert.strictEqual(new Headers(service.headers).get("a"), "b")
      assert.strictEqual(TextEncoder.prototype.encode.call(service.encoder, "a").length, 1)
      assert.isObject(WeakRef.prototype.deref.call(service.weak))
      assert.strictEqual(service.format.format(1234), "1,234")
      assert.strictEqual(new URLSearchParams(service.search).get("a"), "b")
      assert.deepStrictEqual(structuredClone(service.boxed), { of: "data" })
    })
  )

  scenario("classes and redacted values, which are known by their identity, are handed over as they are", () =>
    Effect.gen(function* () {
      class Person extends Schema.Class<Person>("Person")({ name: Schema.String }) {}
      class Settings extends Context.Service<
        Settings,
        {
          readonly password: Redacted.Redacted
          readonly Person: typeof Person
          readonly makeClass: () => typeof Person
          readonly connect: Effect.Effect<string>
        }
      >()("test/Settings") {}
      class Secret extends Context.Service<Secret, Redacted.Redacted>()("test/Secret") {}
      class Model extends Context.Service<Model, typeof Person>()("test/Model") {}
      const settings = yield* rig(Settings, (n) =>
        Effect.succeed({
          password: Redacted.make(`secret ${n}`),
          Person,
          makeClass: () => Person,
          connect: Effect.succeed(`connected ${n}`)
        })
      )
      const secret = yield* rig(Secret, (n) => Effect.succeed(Redacted.make(`secret ${n}`)))
      const model = yield* rig(Model, () => Effect.succeed(Person))
      for (let n = 1; n < 3; n++) {
        const { service } = settings
        assert.strictEqual(Redacted.value(service.password), `secret ${n}`)
        assert.strictEqual(new service.Person({ name: "Ada" }).name, "Ada")
        assert.strictEqual(service.makeClass(), Person)
        assert.strictEqual(yield* service.connect, `connected ${n}`)
        assert.strictEqual(Redacted.value(secret.service), "secret 1")
        assert.strictEqual((yield* Schema.decodeUnknownEffect(model.service)({ name: "Bob" })).name, "Bob")
        for (const { crash } of [settings, secret, model]) yield* crash
      }
    })
  )

  scenario("a Context.Reference that a child provides is a handle like any other", () =>
    Effect.gen(function* () {
      const Limit = Context.Reference<{ readonly max: number }>("test/Limit", { defaultValue: () => ({ max: 0 }) })
      const { app, crash, service } = yield* rig(Limit, (n) => Effect.succeed({ max: n }))
      assert.strictEqual(service.max, 1)
      yield* crash
      const seen = yield* Effect.provideContext(
        Effect.map(Limit, ({ max }) => max),
        app.context
      )
      assert.strictEqual(seen, 2)
    })
  )

  scenario("Process is not among what a child provides", () =>
    Effect.gen(function* () {
      const { app } = yield* rig(Context.Service<number>("test/Any"), () => Effect.succeed(1))
      assert.isUndefined(Context.getOrUndefined(app.context, Process.Process))
    })
  )
})
