import { Pglite } from "@coppice/postgres"
import { DurableTopic, PubSub } from "@coppice/pubsub"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Option, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import { collect, consuming, durable, Numbers, Orders, publish, Virtual } from "./fixtures/Durable.ts"

layer(Virtual)("a consumer", (it) => {
  it.effect("handles everything once, in order, and goes on where it was when it starts again", () =>
    durable(
      Effect.gen(function* () {
        const handled: Array<number> = []
        const handler = ({ event }: DurableTopic.Stored<number>) => Effect.sync(() => void handled.push(event))
        yield* publish(1, 2)
        const first = yield* consuming(handler, { batchSize: 1 })
        yield* Pglite.settle
        yield* publish(3)
        yield* Pglite.settle
        assert.deepStrictEqual(handled, [1, 2, 3])
        yield* Fiber.interrupt(first)
        yield* publish(4, 5)
        yield* Pglite.settle
        yield* consuming(handler)
        yield* Pglite.settle
        assert.deepStrictEqual(handled, [1, 2, 3, 4, 5])
      })
    )
  )

  it.effect("that fails tries again later, does what is before the failure, and harms no other", () =>
    durable(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table handled (n int4, at int4)`
        const began = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
        let attempts = 0
        let broken = true
        const record = (event: number) =>
          Effect.flatMap(
            Effect.clockWith((clock) => clock.currentTimeMillis),
            (millis) => Effect.asVoid(sql`insert into handled values (${event}, ${(millis - began) / 1_000})`)
          )
        yield* consuming(({ event }) =>
          Effect.gen(function* () {
            yield* record(event)
            if (event !== 3 || !broken) return
            attempts++
            return yield* attempts % 2 === 0 ? Effect.die("broken") : Effect.fail("broken")
          })
        )
        const others = yield* collect(Orders, "beginning")
        yield* publish(1, 2, 3, 4)
        yield* Pglite.settle
        const rows = sql<{ readonly n: number; readonly at: number }>`select n, at from handled order by n`
        assert.deepStrictEqual(
          (yield* rows).map(({ n }) => n),
          [1, 2]
        )
        assert.deepStrictEqual(others, [1, 2, 3, 4])
        const [state] = yield* DurableTopic.consumers(Orders)
        assert.deepInclude(state?.lag, { unread: 2, held: 0 })
        // Once in the batch, once alone.
        assert.strictEqual(attempts, 2)
        yield* Pglite.advance("1 second")
        assert.strictEqual(attempts, 3)
        yield* Pglite.advance("1999 millis")
        assert.strictEqual(attempts, 3)
        broken = false
        yield* Pglite.advance("1 millis")
        assert.deepStrictEqual(yield* rows, [
          { n: 1, at: 0 },
          { n: 2, at: 0 },
          { n: 3, at: 3 },
          { n: 4, at: 3 }
        ])
      })
    )
  )

  it.effect("stores its position with what its handler writes, or neither", () =>
    durable(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table handled (n int4 primary key deferrable initially deferred)`
        yield* publish(1, 2, 1, 3)
        const error = yield* Effect.flip(
          DurableTopic.consume(
            Orders,
            "billing",
            ({ event }) => Effect.asVoid(sql`insert into handled values (${event})`),
            {
              // What the database refuses is only known at the commit.
              batchSize: 2,
              retry: Schedule.recurs(0)
            }
          )
        )
        assert.strictEqual(error._tag, "SqlError")
        assert.deepStrictEqual(yield* sql`select n from handled order by n`, [{ n: 1 }, { n: 2 }])
        const state = yield* DurableTopic.consumer(Orders, "billing")
        assert.deepInclude(Option.getOrThrow(state).lag, { unread: 2 })
      })
    )
  )

  it.effect("waits at an event that it does not know until it is said what becomes of those", () =>
    durable(
      Effect.gen(function* () {
        yield* publish(1, 3, 2)
        const handled: Array<number> = []
        const handler = ({ event }: DurableTopic.Stored<1 | 2>) => Effect.sync(() => void handled.push(event))
        const running = yield* Effect.forkScoped(DurableTopic.consume(Numbers, "billing", handler))
        yield* Pglite.advance("1 minute")
        // Others of its name, with newer code, could go on.
        assert.deepStrictEqual(handled, [1, 1])
        yield* Fiber.interrupt(running)
        yield* Effect.forkScoped(
          DurableTopic.consume(Numbers, "billing", handler, {
            onUndecodable: ({ json }) => Effect.sync(() => void handled.push(Number(json)))
          })
        )
        yield* Pglite.settle
        assert.deepStrictEqual(handled, [1, 1, 3, 2])
      })
    )
  )

  it.effect("of another name has a position of its own, which can be set, and forgotten", () =>
    durable(
      Effect.gen(function* () {
        const positions = yield* publish(1, 2, 3)
        const handled: Array<string> = []
        const consume = (name: string, from?: DurableTopic.From) =>
          Effect.forkScoped(
            DurableTopic.consume(Orders, name, ({ event }) => Effect.sync(() => void handled.push(`${name}${event}`)), {
              from
            })
          )
        yield* DurableTopic.setPosition(Orders, "a", positions[1] ?? "now")
        yield* consume("a")
        yield* consume("b", "now")
        yield* Pglite.settle
        assert.deepStrictEqual(handled.splice(0), ["a3"])
        yield* publish(4)
        yield* Pglite.settle
        assert.sameMembers(handled.splice(0), ["a4", "b4"])
        yield* DurableTopic.setPosition(Orders, "a", "beginning")
        yield* Pglite.settle
        assert.deepStrictEqual(handled.splice(0), ["a1", "a2", "a3", "a4"])
        yield* DurableTopic.setPosition(Orders, "c", "now")
        assert.deepStrictEqual(
          (yield* DurableTopic.consumers(Orders)).map(({ consumer, lag }) => [consumer, lag.unread]),
          [
            ["a", 0],
            ["b", 0],
            ["c", 0]
          ]
        )
        assert.isTrue(yield* DurableTopic.deleteConsumer(Orders, "c"))
        assert.isFalse(yield* DurableTopic.deleteConsumer(Orders, "c"))
        assert.isTrue(Option.isNone(yield* DurableTopic.consumer(Orders, "c")))
      })
    )
  )

  it.effect("is a child like any other: it crashes when it gives up, and goes on when it is restarted", () =>
    durable(
      Effect.gen(function* () {
        const handled: Array<number> = []
        const billing = DurableTopic.consume(
          Orders,
          "billing",
          ({ event }) => (handled.push(event) === 2 ? Effect.fail("broken") : Effect.void),
          { retry: Schedule.recurs(0) }
        )
        yield* Layer.build(
          Supervisor.layer("shop", { strategy: "one_for_one", children: [Child.effect("billing", billing)] })
        )
        yield* publish(1)
        yield* Pglite.settle
        yield* publish(2)
        yield* Pglite.settle
        assert.deepStrictEqual(handled, [1, 2, 2])
      })
    )
  )

  it.effect("finds what cannot be committed in a few tries, and does what is before it", () =>
    durable(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table handled (n int4 primary key deferrable initially deferred)`
        yield* publish(...Array.from({ length: 50 }, (_, n) => n), 7)
        yield* consuming(({ event }) => Effect.asVoid(sql`insert into handled values (${event})`))
        yield* Pglite.advance("10 seconds")
        const rows = yield* sql`select n from handled`
        assert.lengthOf(rows, 50)
      })
    )
  )

  it.effect("that its own handler puts elsewhere, or deletes, goes there, and what was handled is done", () =>
    durable(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table handled (id int4 generated always as identity, n int4)`
        const rows = sql<{ readonly n: number }>`select n from handled order by id`
        const numbers = Effect.map(rows, (found) => found.map(({ n }) => n))
        const positions = yield* publish(1, 2, 3)
        let again = true
        yield* consuming(
          Effect.fnUntraced(function* ({ event }: DurableTopic.Stored<number>) {
            yield* sql`insert into handled (n) values (${event})`
            if (event === 3 && again) {
              again = false
              yield* DurableTopic.setPosition(Orders, "billing", positions[0] ?? "now")
            }
            if (event === 5) yield* DurableTopic.deleteConsumer(Orders, "billing")
            // Undone, and so no reason to go anywhere.
            yield* Effect.exit(
              sql.withTransaction(
                Effect.andThen(DurableTopic.setPosition(Orders, "billing", "beginning"), Effect.fail("no"))
              )
            )
          }),
          { from: "now" }
        )
        yield* DurableTopic.setPosition(Orders, "billing", "beginning")
        yield* Pglite.settle
        assert.deepStrictEqual(yield* numbers, [1, 2, 3, 2, 3])
        yield* publish(4, 5)
        yield* Pglite.settle
        // It has registered anew, from now on.
        yield* publish(6)
        yield* Pglite.settle
        assert.deepStrictEqual(yield* numbers, [1, 2, 3, 2, 3, 4, 5, 6])
      })
    )
  )

  it.effect("whose handler ends by an interruption of its own tries again like one that fails", () =>
    durable(
      Effect.gen(function* () {
        const handled: Array<number> = []
        yield* publish(1)
        yield* consuming(({ event }) =>
          Effect.suspend(() => (handled.push(event) === 1 ? Effect.interrupt : Effect.void))
        )
        yield* Pglite.advance("1 second")
        assert.deepStrictEqual(handled, [1, 1])
      })
    )
  )

  it.effect("is still woken when PubSub has crashed, also where nobody around it knows that", () =>
    durable(
      Effect.gen(function* () {
        const services = yield* Layer.build(
          Supervisor.layer("shop", {
            strategy: "one_for_one",
            children: [
              Child.layer("pubsub", Layer.fresh(PubSub.layerLocal)),
              Child.layer("durable", Layer.fresh(DurableTopic.layer({ pollInterval: "1 hour" })))
            ]
          })
        )
        const handled: Array<number> = []
        const durable = Context.get(services, DurableTopic.DurableTopics)
        yield* Effect.forkScoped(
          Effect.updateContext(
            durable.consume(Orders, "billing", ({ event }) => Effect.sync(() => void handled.push(event))),
            (context: Context.Context<never>): Context.Context<never> =>
              // Nobody who consumes asks for it.
              Context.omit(PubSub.PubSub)(context as Context.Context<PubSub.PubSub>)
          )
        )
        yield* Pglite.settle
        yield* Effect.provideContext(Tree.kill("shop/pubsub"), services)
        yield* Pglite.settle
        yield* durable.publish(Orders, 1)
        yield* Pglite.settle
        assert.deepStrictEqual(handled, [1])
      })
    )
  )

  it.effect("with options that cannot be followed does not start", () =>
    durable(
      Effect.gen(function* () {
        for (const options of [{ batchSize: 0 }, { batchSize: 1.5 }, { lease: 1 }]) {
          const error = yield* Effect.flip(DurableTopic.consume(Orders, "billing", () => Effect.void, options))
          assert.strictEqual(error._tag, "InvalidOption")
        }
      })
    )
  )
})
