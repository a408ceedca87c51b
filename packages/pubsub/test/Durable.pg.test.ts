import { Postgres } from "@coppice/postgres"
import { DurableTopic, Migrations, PubSub } from "@coppice/pubsub"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, layer } from "@effect/vitest"
import {
  Clock,
  Context,
  Deferred,
  type Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Random,
  References,
  Schema,
  Scope,
  Stream
} from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"

const Orders = DurableTopic.make("orders", { event: Schema.String })

const Database = Postgres.layerTestDatabase({
  template: { name: "pubsub", migrate: Migrations.run },
  pool: { maxConnections: 12 }
})

/** A node with connections of its own, which hears of others by polling only. */
const startNode = Effect.fnUntraced(function* (pollInterval: Duration.Input = "20 millis") {
  const server = yield* Postgres.Server
  const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
  const services = yield* Layer.buildWithScope(
    Layer.fresh(DurableTopic.layer({ pollInterval, migrate: false })).pipe(
      Layer.provideMerge(Layer.fresh(PubSub.layerLocal)),
      Layer.provideMerge(Layer.fresh(PgClient.layerFrom(PgClient.make({ url: server.url(), maxConnections: 8 })))),
      Layer.provide(Reactivity.layer)
    ),
    scope
  )
  return {
    durable: Context.get(services, DurableTopic.DurableTopics),
    sql: Context.get(services, SqlClient.SqlClient),
    stop: Scope.close(scope, Exit.void)
  }
})

const setUp = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`drop table if exists handled`
  yield* sql`truncate pubsub.events, pubsub.positions, pubsub.pruned`
  yield* sql`create table handled (id int4 generated always as identity, event text, node text)`
  return sql
})

/** Waits, in real time, until something is so. */
const eventually = <A, E, R>(
  what: string,
  look: Effect.Effect<A, E, R>,
  good: (answer: A) => boolean,
  within = 10_000
) =>
  Effect.gen(function* () {
    const began = performance.now()
    for (;;) {
      const answer = yield* look
      if (good(answer)) return answer
      if (performance.now() - began > within) {
        return yield* Effect.die(new Error(`not within ${within} ms: ${what}, but ${JSON.stringify(answer)}`))
      }
      yield* Effect.sleep(5)
    }
  })

const quietly = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.scoped(Effect.provideService(effect, References.MinimumLogLevel, "None"))

interface Seen {
  readonly position: string
  readonly event: string
}

/** Everything that a stream has, from now on. */
const collect = Effect.fnUntraced(function* (durable: DurableTopic.Shape, from: DurableTopic.From) {
  const seen: Array<Seen> = []
  yield* Effect.forkScoped(
    Stream.runForEach(durable.stream(Orders, { from }), (message) =>
      Effect.sync(() => {
        assert.strictEqual(message._tag, "Event")
        if (message._tag === "Event") seen.push({ position: message.position, event: message.event })
      })
    )
  )
  return seen
})

layer(Database, { excludeTestServices: true })("under concurrent commits", (it) => {
  it.effect("every reader sees every event once, in one order that a replay repeats", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode()
        const live = yield* collect(durable, "beginning")
        const committed = new Set<string>()
        const pause = Effect.flatMap(Random.nextIntBetween(0, 4), (millis) =>
          millis === 0 ? Effect.void : Effect.sleep(millis)
        )
        const transaction = (name: string) =>
          Effect.gen(function* () {
            // Some have their number long before they publish.
            if ((yield* Random.next) < 0.5) yield* sql`select pg_current_xact_id()::text`
            yield* pause
            yield* durable.publish(Orders, `${name}.0`)
            yield* pause
            yield* Effect.ignore(
              sql.withTransaction(Effect.andThen(durable.publish(Orders, `${name}.undone`), Effect.fail("no")))
            )
            yield* sql.withTransaction(durable.publishMany(Orders, [`${name}.1`, `${name}.2`]))
            yield* pause
            if ((yield* Random.next) < 0.2) return yield* Effect.fail("no")
          }).pipe(
            sql.withTransaction,
            Effect.tap(() => Effect.sync(() => [0, 1, 2].forEach((n) => committed.add(`${name}.${n}`)))),
            Effect.ignore
          )
        const writers = yield* Effect.forkChild(
          Effect.forEach(
            [0, 1, 2, 3, 4, 5],
            (worker) => Effect.forEach(Array.from({ length: 40 }), (_, round) => transaction(`${worker}/${round}`)),
            { concurrency: "unbounded" }
          )
        )
        // One who comes back again and again with the position that it had.
        const returning: Array<Seen> = []
        let from: DurableTopic.From = "beginning"
        const visit = Effect.gen(function* () {
          const some = yield* Stream.runCollect(
            Stream.take(DurableTopic.events(Orders, { from }), 1 + (returning.length % 5))
          )
          for (const { event, position } of some) {
            returning.push({ event, position })
            from = position
          }
        }).pipe(Effect.provideService(DurableTopic.DurableTopics, durable))
        while (writers.pollUnsafe() === undefined || returning.length < committed.size) {
          yield* Effect.timeoutOption(visit, "2 seconds")
          if (writers.pollUnsafe() !== undefined && returning.length + 5 > committed.size) break
        }
        yield* Fiber.join(writers)
        yield* eventually(
          "all are seen",
          Effect.sync(() => live.length),
          (n) => n >= committed.size
        )
        const replay = yield* collect(durable, "beginning")
        yield* eventually(
          "all are seen again",
          Effect.sync(() => replay.length),
          (n) => n >= committed.size
        )
        assert.isAbove(committed.size, 300)
        assert.deepStrictEqual(new Set(live.map(({ event }) => event)), committed)
        assert.lengthOf(live, committed.size)
        assert.deepStrictEqual(live, replay)
        assert.deepStrictEqual(returning, live.slice(0, returning.length))
        assert.isAbove(returning.length, live.length - 10)
        assert.deepStrictEqual(
          [...live].sort((a, b) => (a.position < b.position ? -1 : 1)),
          live
        )
        // The events of a transaction follow each other in their order.
        for (let index = 0; index < live.length; index += 3) {
          const [name] = live[index]?.event.split(".") ?? []
          assert.deepStrictEqual(
            live.slice(index, index + 3).map(({ event }) => event),
            [`${name}.0`, `${name}.1`, `${name}.2`]
          )
        }
      })
    )
  )

  it.effect("a transaction that stays open holds back what came after it, and comes before it", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode()
        const seen = yield* collect(durable, "beginning")
        yield* durable.setPosition(Orders, "billing", "beginning")
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* durable.publish(Orders, "first")
            // Of another connection, and committed.
            yield* Fiber.join(yield* Effect.forkDetach(outside(sql, durable.publish(Orders, "second"))))
            yield* Effect.sleep("100 millis")
            assert.deepStrictEqual(seen, [])
            const state = yield* outside(sql, durable.consumer(Orders, "billing"))
            assert.deepInclude(Option.getOrThrow(state).lag, { unread: 1, held: 1 })
          })
        )
        yield* eventually(
          "both are seen",
          Effect.sync(() => seen.length),
          (n) => n === 2
        )
        assert.deepStrictEqual(
          seen.map(({ event }) => event),
          ["first", "second"]
        )
      })
    )
  )

  it.effect("readers are woken when a transaction commits, and not before", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode("1 minute")
        const seen = yield* collect(durable, "beginning")
        yield* sql.withTransaction(Effect.andThen(durable.publish(Orders, "first"), Effect.sleep("50 millis")))
        yield* eventually(
          "it is seen",
          Effect.sync(() => seen.length),
          (n) => n === 1
        )
      })
    )
  )

  it.effect("what another transaction has held back is seen soon after that has ended", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode("1 minute")
        const seen = yield* collect(durable, "beginning")
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`select pg_current_xact_id()::text`
            yield* outside(sql, durable.publish(Orders, "first"))
            yield* Effect.sleep("100 millis")
            assert.deepStrictEqual(seen, [])
          })
        )
        yield* eventually(
          "it is seen",
          Effect.sync(() => seen.length),
          (n) => n === 1,
          2_000
        )
      })
    )
  )

  it.effect("a transaction that only reads, and a consumer that only waits, hold back nobody", () =>
    quietly(
      Effect.gen(function* () {
        yield* setUp
        const { durable, sql } = yield* startNode()
        const waiting = yield* Deferred.make<void>()
        yield* Effect.forkScoped(
          durable.consume(Orders, "slow", () => Effect.andThen(Deferred.succeed(waiting, undefined), Effect.never))
        )
        yield* durable.publish(Orders, "first")
        yield* Deferred.await(waiting)
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`select 1`
            const seen = yield* collect(durable, "beginning")
            yield* outside(sql, durable.publish(Orders, "second"))
            yield* eventually(
              "both are seen",
              Effect.sync(() => seen.length),
              (n) => n === 2
            )
          })
        )
      })
    )
  )
})

/** Not in the transaction of a client. */
const outside = <A, E>(sql: SqlClient.SqlClient, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.updateContext(effect, (context: Context.Context<never>): Context.Context<never> =>
    Context.omit(sql.transactionService)(context)
  )

/** What consumers have written that committed, in the order of handling. */
const handled = (sql: SqlClient.SqlClient) =>
  sql<{ readonly event: string; readonly node: string }>`select event, node from handled order by id`

layer(Database, { excludeTestServices: true })("consumers of one name on several nodes", (it) => {
  const consume = (
    node: { readonly durable: DurableTopic.Shape; readonly sql: SqlClient.SqlClient },
    name: string,
    before: (event: string) => Effect.Effect<unknown> = () => Effect.void,
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
        const events = Array.from({ length: 200 }, (_, index) => `${index}`)
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
        // Its time stands still, as that of a process that is stopped.
        const frozen: Clock.Clock = Object.assign(Object.create(clock), { sleep: () => Effect.never })
        const fiber = yield* consume(
          one,
          "one",
          (event) =>
            event === "a" ? Effect.void : Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(awake)),
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
        yield* consume(one, "one", () => Effect.sleep("700 millis"), { lease: "200 millis" })
        yield* one.durable.publish(Orders, "a")
        yield* Effect.sleep("100 millis")
        yield* consume(two, "two")
        const rows = yield* eventually("it is handled", handled(sql), (rows) => rows.length >= 1)
        assert.deepStrictEqual(rows, [{ event: "a", node: "one" }])
      })
    )
  )
})
