// Handles and transactions on a real server: what belongs together is never split between two instances of the database
// child. The scope of the layers is real, so these tests run on the live clock.
import { Postgres } from "@coppice/postgres"
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Queue, Random, References } from "effect"
import { SqlClient } from "effect/sql"

const client = PgClient.layerFrom(
  Effect.flatMap(Postgres.Server, (server) => Postgres.connect(server.url(), { maxConnections: 4 }))
)

class Writer extends Context.Service<
  Writer,
  {
    readonly insert: (n: number) => Effect.Effect<void, unknown>
    readonly count: Effect.Effect<number, unknown>
  }
>()("test/Writer") {
  static readonly layer = Layer.effect(
    Writer,
    Effect.map(SqlClient.SqlClient, (sql) => ({
      insert: (n: number) => Effect.asVoid(sql`insert into numbers (n) values (${n})`),
      count: Effect.map(
        sql<{ count: number }>`select count(*)::int as count from numbers`,
        (rows) => rows[0]?.count ?? 0
      )
    }))
  )
}

const App = Supervisor.layer("App", {
  strategy: "one_for_one",
  maxRestarts: 1000,
  children: [Child.layer("database", client), Child.layer("writer", Writer.layer)]
}).pipe(
  Layer.provideMerge(Tree.layer),
  // Hundreds of crashes on purpose need no telling.
  Layer.provideMerge(Layer.succeed(References.MinimumLogLevel, "None")),
  Layer.provideMerge(Postgres.layerServer({ temporary: true }))
)

const killDatabase = Effect.gen(function* () {
  const before = (yield* Tree.get("App/database")).incarnation
  yield* Tree.kill("App/database")
  // The restart takes real connections and therefore real time.
  while ((yield* Tree.get("App/database")).incarnation === before) yield* Effect.sleep("1 millis")
})

const prepare = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`create table if not exists numbers (n int not null)`
  yield* sql`truncate numbers`
})

describe("a database child that restarts", () => {
  it.live("a sibling that captured sql before the restart reaches the new client after it", () =>
    Effect.gen(function* () {
      yield* prepare
      const { count, insert } = yield* Writer
      yield* insert(1)
      yield* killDatabase
      yield* insert(2)
      assert.strictEqual(yield* count, 2)
    }).pipe(Effect.provide(App))
  )

  it.live("a transaction during which it restarts fails as a whole, and no statement of it is written outside", () =>
    Effect.gen(function* () {
      yield* prepare
      const sql = yield* SqlClient.SqlClient
      const writer = yield* Writer
      const begun = yield* Deferred.make<void>()
      const restarted = yield* Deferred.make<void>()
      const after: Array<string> = []
      const transaction = yield* Effect.forkChild(
        sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`insert into numbers (n) values (1)`
            yield* Deferred.succeed(begun, undefined)
            // What must not be split: statements after the restart, however they are reached.
            yield* Effect.uninterruptible(Deferred.await(restarted))
            for (const [name, statement] of [
              ["sql", Effect.asVoid(sql`insert into numbers (n) values (2)`)],
              ["values", Effect.asVoid(sql`insert into numbers (n) values (3)`.values)],
              ["writer", writer.insert(4)]
            ] as const) {
              const exit = yield* Effect.exit(Effect.uninterruptible(statement))
              after.push(`${name}: ${Exit.isSuccess(exit) ? "written" : "failed"}`)
            }
          })
        )
      )
      yield* Deferred.await(begun)
      const kill = yield* Effect.forkChild(killDatabase)
      // The old instance is being stopped while its transaction is still open.
      yield* Effect.sleep("50 millis")
      yield* Deferred.succeed(restarted, undefined)
      const exit = yield* Fiber.await(transaction)
      yield* Fiber.join(kill)
      assert.isTrue(Exit.isFailure(exit))
      assert.notInclude(after.join(), "written")
      assert.strictEqual(yield* writer.count, 0)
    }).pipe(Effect.provide(App))
  )

  it.live(
    "200 transactions of two statements under random restarts: both rows or none, for every caller's answer",
    () =>
      Effect.gen(function* () {
        yield* prepare
        const sql = yield* SqlClient.SqlClient
        const committed = yield* Queue.sliding<number>(1)
        const killer = yield* Effect.forkChild(
          Effect.forever(
            Effect.gen(function* () {
              // A machine that is slow to connect must not be killed faster than it can commit.
              yield* Queue.clear(committed)
              yield* Queue.take(committed)
              yield* Effect.sleep(yield* Random.nextIntBetween(0, 20))
              yield* killDatabase
            })
          )
        )
        const exits = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, n) => n),
          (n) =>
            sql
              .withTransaction(
                Effect.gen(function* () {
                  yield* sql`insert into numbers (n) values (${n})`
                  yield* Effect.sleep(yield* Random.nextIntBetween(0, 10))
                  yield* sql`insert into numbers (n) values (${n})`
                })
              )
              .pipe(
                Effect.tap(() => Queue.offer(committed, n)),
                Effect.exit
              ),
          { concurrency: 8 }
        )
        yield* Fiber.interrupt(killer)
        while ((yield* Tree.get("App/database")).status !== "running") yield* Effect.sleep("1 millis")
        const rows = yield* sql<{ n: number; count: number }>`select n, count(*)::int as count from numbers group by n`
        const counts = new Map(rows.map((row) => [row.n, row.count]))
        const failed = exits.filter(Exit.isFailure).length
        assert.isAbove(failed, 0, "no restart hit a transaction: the test showed nothing")
        assert.isAbove(exits.length - failed, 0)
        exits.forEach((exit, n) => {
          const count = counts.get(n) ?? 0
          if (Exit.isSuccess(exit)) assert.strictEqual(count, 2, `transaction ${n} was acknowledged`)
          // A failure may hide a commit whose acknowledgement was lost, but never half of one.
          else assert.include([0, 2], count, `transaction ${n} failed with ${Cause.pretty(exit.cause)}`)
        })
      }).pipe(Effect.provide(App))
  )
})
