// A PubSub that crashes and comes back, under a supervisor.
import { Postgres } from "@coppice/postgres"
import { PubSub, Topic } from "@coppice/pubsub"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it, layer } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Logger, Schema, Scope, Stream } from "effect"
import { SqlClient } from "effect/sql"

const Pages = Topic.make("pages", { event: Schema.String })

const App = Supervisor.layer("App", {
  strategy: "one_for_one",
  maxRestarts: 100,
  children: [Child.layer("pubsub", PubSub.layerLocal)]
})

const crash = Effect.gen(function* () {
  const { restarts } = yield* Tree.get("App/pubsub")
  yield* Tree.kill("App/pubsub")
  while ((yield* Tree.get("App/pubsub")).restarts === restarts) yield* Effect.yieldNow
  // Who waits for messages is taken over.
  for (let turns = 0; turns < 20; turns++) yield* Effect.yieldNow
})

const shown = (message: { readonly _tag: string; readonly event?: string; readonly reason?: string }) =>
  message.event ?? message.reason ?? message._tag

/** What subscriptions get while they are waited for. */
const listening = (count: number) =>
  Effect.gen(function* () {
    const heard: Array<string> = []
    const subscriptions = yield* Effect.forEach(Array.from({ length: count }), () => PubSub.subscribe(Pages))
    for (const { messages } of subscriptions) {
      yield* Effect.forkScoped(Stream.runForEach(messages, (message) => Effect.sync(() => heard.push(shown(message)))))
    }
    yield* Effect.yieldNow
    return { heard, subscriptions }
  })

describe("when PubSub crashes and is restarted, a subscription", () => {
  it.effect("that waits goes on with a gap, however often, and stays the only one", () =>
    Effect.gen(function* () {
      const { heard } = yield* listening(2)
      for (const event of ["1", "2", "3"]) {
        yield* crash
        assert.strictEqual(yield* PubSub.subscriberCount(Pages), 2)
        yield* PubSub.broadcast(Pages, event)
        yield* Effect.yieldNow
      }
      for (let turns = 0; turns < 20; turns++) yield* Effect.yieldNow
      assert.deepStrictEqual(
        heard,
        ["1", "2", "3"].flatMap((event) => ["restarted", "restarted", event, event])
      )
    }).pipe(Effect.scoped, Effect.provide(App))
  )

  it.effect("that does something else gets what waited for it, then the gap", () =>
    Effect.gen(function* () {
      const { messages } = yield* PubSub.subscribe(Pages)
      yield* PubSub.broadcast(Pages, "before")
      yield* crash
      yield* PubSub.broadcast(Pages, "missed")
      const first = yield* Stream.runCollect(Stream.take(messages, 2))
      yield* PubSub.broadcast(Pages, "after")
      const then = yield* Stream.runCollect(Stream.take(messages, 1))
      assert.deepStrictEqual([...first, ...then].map(shown), ["before", "restarted", "after"])
    }).pipe(Effect.scoped, Effect.provide(App))
  )

  it.effect("whose scope closes meanwhile or later is gone", () =>
    Effect.gen(function* () {
      const [early, late] = [yield* Scope.make(), yield* Scope.make()]
      const one = yield* PubSub.subscribe(Pages).pipe(Scope.provide(early))
      const two = yield* PubSub.subscribe(Pages).pipe(Scope.provide(late))
      yield* Tree.kill("App/pubsub")
      yield* Scope.close(early, Exit.void)
      yield* Effect.yieldNow
      const waiting = yield* Effect.forkChild(Stream.runCollect(two.messages))
      for (let turns = 0; turns < 50; turns++) yield* Effect.yieldNow
      assert.deepStrictEqual(yield* Stream.runCollect(one.messages), [])
      assert.strictEqual(yield* PubSub.subscriberCount(Pages), 1)
      yield* Scope.close(late, Exit.void)
      assert.deepStrictEqual((yield* Fiber.join(waiting)).map(shown), ["restarted"])
      assert.strictEqual(yield* PubSub.subscriberCount(Pages), 0)
    }).pipe(Effect.provide(App))
  )

  it.effect("of a process is that process's still", () =>
    Effect.gen(function* () {
      const heard: Array<string> = []
      const watcher = Layer.effectDiscard(
        PubSub.handle(Pages, (message) =>
          Effect.suspend(() => {
            heard.push(shown(message))
            return message._tag === "Event" && message.event === "bad" ? Effect.die("no") : Effect.void
          })
        )
      )
      const app = Supervisor.layer("Both", {
        strategy: "one_for_one",
        children: [Child.layer("pubsub", PubSub.layerLocal), Child.layer("watcher", watcher)]
      })
      yield* Effect.gen(function* () {
        yield* Effect.yieldNow
        yield* Tree.kill("Both/pubsub")
        for (let turns = 0; turns < 50; turns++) yield* Effect.yieldNow
        for (const event of ["good", "bad", "lost"]) yield* PubSub.broadcast(Pages, event)
        for (let turns = 0; turns < 50; turns++) yield* Effect.yieldNow
        yield* PubSub.broadcast(Pages, "again")
        for (let turns = 0; turns < 50; turns++) yield* Effect.yieldNow
        assert.strictEqual((yield* Tree.get("Both/watcher")).restarts, 1)
        assert.deepStrictEqual(heard, ["restarted", "good", "bad", "again"])
      }).pipe(Effect.provide(app))
    })
  )
})

it.effect("a subscription whose PubSub does not come back ends with a defect that says so", () =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const context = yield* Layer.buildWithScope(PubSub.layerLocal, scope)
    const { messages } = yield* Effect.provideContext(PubSub.subscribe(Pages), context)
    yield* Effect.provideContext(PubSub.broadcast(Pages, "last"), context)
    const heard: Array<string> = []
    const listener = yield* Effect.forkChild(
      Stream.runForEach(messages, (message) => Effect.sync(() => heard.push(shown(message))))
    )
    yield* Scope.close(scope, Exit.void)
    const exit = yield* Fiber.await(listener)
    assert.deepStrictEqual(heard, ["last"])
    assert.include(String(exit), "The PubSub of a subscription of pages has stopped")
  }).pipe(Effect.scoped)
)

layer(Postgres.layerTest)("a transaction during which PubSub crashes", (it) => {
  it.effect("still broadcasts when it has committed, from this node's new PubSub", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { heard, subscriptions } = yield* listening(2)
      const [first] = subscriptions
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* PubSub.broadcast(Pages, "all")
          yield* PubSub.localBroadcast(Pages, "local")
          if (first !== undefined) yield* PubSub.broadcastFrom(first, Pages, "others")
          yield* crash
        })
      )
      yield* Effect.ignore(
        sql.withTransaction(
          PubSub.broadcast(Pages, "lost").pipe(Effect.andThen(crash), Effect.andThen(Effect.fail("no")))
        )
      )
      for (let turns = 0; turns < 20; turns++) yield* Effect.yieldNow
      assert.deepStrictEqual(heard.toSorted(), [
        "all",
        "all",
        "local",
        "local",
        "others",
        ...Array.from({ length: 4 }, () => "restarted")
      ])
    }).pipe(Effect.scoped, Effect.provide(App))
  )

  it.effect("on a service that has no successor says in the log that it is lost", () => {
    const defects: Array<string> = []
    const logger = Logger.make(({ cause }) => void defects.push(Cause.pretty(cause)))
    return Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const scope = yield* Scope.make()
      const pubsub = Context.get(yield* Layer.buildWithScope(PubSub.layerLocal, scope), PubSub.PubSub)
      const broadcast = pubsub.broadcast(Pages, "lost")
      const transaction = sql.withTransaction(
        Effect.all([broadcast, Effect.provideService(broadcast, PubSub.PubSub, pubsub), Scope.close(scope, Exit.void)])
      )
      yield* transaction.pipe(Effect.provide(Logger.layer([logger])))
      assert.lengthOf(defects, 2)
      for (const defect of defects) assert.include(defect, "its PubSub stopped before the transaction committed")
    })
  })
})
