import { Postgres } from "@coppice/postgres"
import { PubSub, Topic } from "@coppice/pubsub"
import { Child, Supervisor } from "@coppice/supervision"
import { assert, it, layer } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Schema, Scope, Stream } from "effect"
import { SqlClient } from "effect/sql"

const Pages = Topic.make("pages", { event: Schema.String })

/** Everything that was delivered, once "end" was. */
const delivered = Effect.fnUntraced(function* (work: Effect.Effect<unknown, unknown, PubSub.PubSub>) {
  const { events } = yield* PubSub.subscribe(Pages)
  yield* Effect.exit(work)
  yield* PubSub.broadcastNow(Pages, "end")
  return yield* Stream.runCollect(Stream.takeWhile(events, (event) => event !== "end"))
}, Effect.scoped)

const say = (event: string) => PubSub.broadcast(Pages, event)

layer(Postgres.layerTest)("a broadcast inside a transaction", (it) => {
  it.effect("happens when the outermost one has committed", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const heard: Array<string> = []
      const { events } = yield* PubSub.subscribe(Pages)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql.withTransaction(say("inner"))
          yield* say("outer")
          heard.push(`${yield* PubSub.subscriberCount(Pages)} waits`)
          yield* PubSub.broadcastNow(Pages, "now")
        })
      )
      heard.push(...(yield* Stream.runCollect(Stream.take(events, 3))))
      assert.deepStrictEqual(heard, ["1 waits", "now", "inner", "outer"])
    }).pipe(Effect.scoped, Effect.provide(PubSub.layerLocal))
  )

  it.effect("waits for it too where the client around the caller is not the one whose transaction it is", () =>
    Effect.gen(function* () {
      const layers = yield* SqlClient.SqlClient
      const pubsub = yield* Layer.build(PubSub.layerLocal)
      const callers = yield* Layer.build(Layer.fresh(Postgres.layerTest))
      const work = Effect.gen(function* () {
        const callers = yield* SqlClient.SqlClient
        const { events } = yield* PubSub.subscribe(Pages)
        for (const sql of [layers, callers]) {
          yield* Effect.ignore(sql.withTransaction(Effect.andThen(say("lost"), Effect.fail("no"))))
          yield* sql.withTransaction(Effect.andThen(say("second"), PubSub.broadcastNow(Pages, "first")))
        }
        assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(events, 4)), ["first", "second", "first", "second"])
      })
      yield* Effect.provideContext(
        work,
        Context.merge(pubsub, callers).pipe(Context.add(Scope.Scope, yield* Effect.scope))
      )
    }).pipe(Effect.scoped)
  )

  it.effect("never happens when that is rolled back, by a failure, a defect or an interruption", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      for (const end of [Effect.fail("no"), Effect.die("no"), Effect.interrupt]) {
        const events = yield* delivered(sql.withTransaction(Effect.andThen(say("lost"), end)))
        assert.deepStrictEqual(events, [])
      }
    }).pipe(Effect.provide(PubSub.layerLocal))
  )

  it.effect("never happens when its savepoint is rolled back, and the others do, in order", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const events = yield* delivered(
        sql.withTransaction(
          Effect.gen(function* () {
            yield* say("1")
            yield* Effect.ignore(sql.withTransaction(Effect.andThen(say("lost"), Effect.fail("no"))))
            yield* sql.withTransaction(say("2"))
            yield* Effect.ignore(
              sql.withTransaction(Effect.andThen(sql.withTransaction(say("lost too")), Effect.fail("no")))
            )
            yield* say("3")
          })
        )
      )
      assert.deepStrictEqual(events, ["1", "2", "3"])
    }).pipe(Effect.provide(PubSub.layerLocal))
  )

  it.effect("loses nothing to those who take what comes, however much the transaction has to say", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const said = Array.from({ length: 3_000 }, (_, index) => String(index))
      const { events } = yield* PubSub.subscribe(Pages)
      const heard = yield* Effect.forkChild(Stream.runCollect(Stream.take(events, said.length)), {
        startImmediately: true
      })
      yield* sql.withTransaction(Effect.forEach(said, say, { discard: true }))
      assert.deepStrictEqual(yield* Fiber.join(heard), said)
    }).pipe(Effect.scoped, Effect.provide(PubSub.layerLocal))
  )
})

it.effect("a broadcast of a supervised tree is bound to the commit, by whatever name PubSub is called", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const pubsub = yield* PubSub.PubSub
    const events = yield* delivered(
      sql.withTransaction(
        Effect.gen(function* () {
          yield* say("function")
          yield* pubsub.broadcast(Pages, "service")
          yield* Effect.ignore(sql.withTransaction(Effect.andThen(pubsub.broadcast(Pages, "lost"), Effect.fail("no"))))
          yield* sql.withTransaction(pubsub.localBroadcast(Pages, "inner"))
          yield* Fiber.join(yield* Effect.forkChild(pubsub.broadcast(Pages, "forked")))
          yield* PubSub.broadcastNow(Pages, "now")
        })
      )
    )
    assert.deepStrictEqual(events, ["now", "function", "service", "inner", "forked"])
  }).pipe(
    Effect.provide(
      Supervisor.layer("App", {
        strategy: "one_for_one",
        children: [Child.layer("database", Postgres.layerTest), Child.layer("pubsub", PubSub.layerLocal)]
      })
    )
  )
)
