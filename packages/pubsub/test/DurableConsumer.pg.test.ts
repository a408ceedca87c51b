import type { DurableTopic } from "@coppice/pubsub"
import { assert, layer } from "@effect/vitest"
import { Clock, Deferred, type Duration, Effect, Fiber } from "effect"
import type { SqlClient } from "effect/sql"
import { Database, eventually, handled, Orders, outside, quietly, setUp, startNode } from "./fixtures/DurableNodes.ts"

layer(Database, { excludeTestServices: true })("consumers of one name on several nodes", (it) => {
  const consume = (
    node: { readonly durable: DurableTopic.Shape; readonly sql: SqlClient.SqlClient },
    name: string,
    before: (event: string) => Effect.Effect<unknown, unknown> = () => Effect.void,
    options: DurableTopic.ConsumeOptions = {}
  ) =>
    Effect.forkScoped(
      node.durable.consume(
        Orders,
        "billing",
        ({ event }) =>
          Effect.andThen(
            before(event),
            Effect.asVoid(node.sql`insert into handled (event, node) values (${event}, ${name})`)
          ),
        { batchSize: 7, ...options }
      )
    )

  it.effect("handle every event once, in order, one at a time", () =>
    quietly(
      Effect.gen(function* () {
        const sql = yield* setUp
        const nodes = [yield* startNode(), yield* startNode(), yield* startNode()]
        let busy = 0
        let most = 0
        const overlap = () =>
          Effect.sync(() => void (most = Math.max(most, ++busy))).pipe(
            Effect.andThen(Effect.yieldNow),
            Effect.andThen(Effect.sync(() => busy--))
          )
        for (const [index, node] of nodes.entries()) yield* consume(node, `${index}`, overlap)
        const events = Array.from({ length: 70 }, (_, index) => `${index}`)
        for (const event of events) yield* nodes[Number(event) % 3]!.durable.publish(Orders, event)
        const rows = yield* eventually("all are handled", handled(sql), (rows) => rows.length >= events.length)
        assert.deepStrictEqual(
          rows.map(({ event }) => event),
          events
        )
        assert.strictEqual(most, 1)
      })
    )
  )

  it.effect("take over from one whose connection is killed, and nothing of it remains", () =>
    quietly(
      Effect.gen(function* () {
        const sql = yield* setUp
        const [one, two] = [yield* startNode(), yield* startNode()]
        yield* one.durable.publishMany(Orders, ["a", "b", "c"])
        const reached = yield* Deferred.make<void>()
        const interrupted = yield* Deferred.make<void>()
        yield* consume(
          one,
          "one",
          (event) =>
            event === "a"
              ? Effect.void
              : Deferred.succeed(reached, undefined).pipe(
                  Effect.andThen(Effect.never),
                  Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined))
                ),
          { lease: "300 millis" }
        )
        yield* Deferred.await(reached)
        yield* consume(two, "two")
        yield* sql`select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted
                     and database = (select oid from pg_database where datname = current_database())`
        const rows = yield* eventually("all are handled", handled(sql), (rows) => rows.length >= 3)
        assert.deepStrictEqual(
          rows,
          ["a", "b", "c"].map((event) => ({ event, node: "two" }))
        )
        // It does not go on with what is no longer its own.
        yield* Deferred.await(interrupted)
      })
    )
  )

  it.effect("take over from one that is frozen, which commits nothing when it awakes", () =>
    quietly(
      Effect.gen(function* () {
        const sql = yield* setUp
        const [one, two] = [yield* startNode(), yield* startNode()]
        yield* one.durable.publishMany(Orders, ["a", "b"])
        const reached = yield* Deferred.make<void>()
        const awake = yield* Deferred.make<void>()
        const clock = yield* Clock.clockWith(Effect.succeed)
        // Then its time stands still, as that of a process that is stopped.
        let stopped = false
        const frozen: Clock.Clock = Object.assign(Object.create(clock), {
          sleep: (duration: Duration.Duration) => Effect.suspend(() => (stopped ? Effect.never : clock.sleep(duration)))
        })
        const fiber = yield* consume(
          one,
          "one",
          (event) => {
            stopped = event !== "a"
            return stopped ? Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(awake)) : Effect.void
          },
          { lease: "300 millis" }
        ).pipe(Effect.provideService(Clock.Clock, frozen))
        yield* Deferred.await(reached)
        yield* consume(two, "two", undefined, { lease: "300 millis" })
        const rows = yield* eventually("all are handled", handled(sql), (rows) => rows.length >= 2)
        assert.deepStrictEqual(
          rows,
          ["a", "b"].map((event) => ({ event, node: "two" }))
        )
        yield* Deferred.succeed(awake, undefined)
        yield* two.durable.publish(Orders, "c")
        yield* eventually("goes on", handled(sql), (rows) => rows.length >= 3)
        assert.deepStrictEqual(
          (yield* handled(sql)).map(({ event }) => event),
          ["a", "b", "c"]
        )
        yield* Fiber.interrupt(fiber)
      })
    )
  )

  it.effect("whose position is set while one is handling undo that, and go there", () =>
    quietly(
      Effect.gen(function* () {
        const sql = yield* setUp
        const node = yield* startNode()
        let once = true
        yield* node.durable.publishMany(Orders, ["a", "b", "c"])
        yield* consume(
          node,
          "one",
          (event) =>
            Effect.suspend(() => {
              if (event !== "c" || !once) return Effect.void
              once = false
              return outside(node.sql, node.durable.setPosition(Orders, "billing", "beginning"))
            }),
          { batchSize: 2 }
        )
        const rows = yield* eventually("all are handled", handled(sql), (rows) => rows.length >= 5)
        assert.deepStrictEqual(
          rows.map(({ event }) => event),
          ["a", "b", "a", "b", "c"]
        )
      })
    )
  )

  it.effect("leave to its handler all the time that it needs, as long as the node lives", () =>
    quietly(
      Effect.gen(function* () {
        const sql = yield* setUp
        const [one, two] = [yield* startNode(), yield* startNode()]
        const reached = yield* Deferred.make<void>()
        yield* consume(
          one,
          "one",
          () => Deferred.succeed(reached, undefined).pipe(Effect.andThen(Effect.sleep("1500 millis"))),
          { lease: "1 second" }
        )
        yield* one.durable.publish(Orders, "a")
        yield* Deferred.await(reached)
        yield* consume(two, "two")
        const rows = yield* eventually("it is handled", handled(sql), (rows) => rows.length >= 1)
        assert.deepStrictEqual(rows, [{ event: "a", node: "one" }])
      })
    )
  )
})
