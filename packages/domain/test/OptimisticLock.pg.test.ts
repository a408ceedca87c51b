import { Changeset, OptimisticLock } from "@coppice/domain"
import { Postgres } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Option, Result, Schema, String } from "effect"
import { Reactivity } from "effect/reactivity"
import { Model } from "effect/schema"
import { SqlClient } from "effect/sql"
import { Database, insertTrail, Trail, TrailId, update as makeUpdate } from "./fixtures/trails.ts"

const find = (id: typeof TrailId.Type) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const rows = yield* sql`select * from trails where id = ${id}`
    return Option.fromUndefinedOr(rows.length === 0 ? undefined : yield* Schema.decodeUnknownEffect(Trail)(rows[0]))
  })

layer(Database)("OptimisticLock.makeUpdate", (it) => {
  it.effect("writes the changes, counts the version up and gives the new row", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail({ name: "Ridge", length: 3 })
      const updated = yield* update(trail, { name: "Valley" })
      assert.instanceOf(updated, Trail)
      assert.strictEqual(updated.title, "Valley (active)")
      assert.deepInclude({ ...updated }, { id: trail.id, length: 3, version: trail.version + 1 })
      assert.deepStrictEqual(yield* find(trail.id), Option.some(updated))
    })
  )

  it.effect("takes the id and the version that a client sent back in the place of a row", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const { id, version } = yield* insertTrail()
      assert.strictEqual((yield* update({ id, version }, { length: 9 })).length, 9)
    })
  )

  it.effect("fails with Stale, and writes nothing, when the row has another version", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      const other = yield* update(trail, { length: 2 })
      const error = yield* Effect.flip(update(trail, { length: 3 }))
      assert.instanceOf(error, OptimisticLock.Stale)
      assert.deepStrictEqual(
        { ...error },
        { _tag: "Stale", table: "trails", id: `${trail.id}`, expected: 1, actual: 2 }
      )
      assert.strictEqual(
        error.message,
        `Row ${trail.id} of trails has changed since it was read: expected version 1, found 2. `
          + "Read it again and decide whether the change still applies."
      )
      assert.deepStrictEqual(yield* find(trail.id), Option.some(other))
    })
  )

  it.effect("fails with Stale for a version that the row has never had", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const { id } = yield* insertTrail()
      const error = yield* Effect.flip(update({ id, version: 99 }, { length: 3 }))
      assert.deepInclude({ ...error }, { _tag: "Stale", expected: 99, actual: 1 })
    })
  )

  it.effect("fails with RowNotFound when there is no such row", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      for (const changes of [{ length: 3 }, {}]) {
        const error = yield* Effect.flip(update({ id: TrailId.make(-1), version: 1 }, changes))
        assert.instanceOf(error, OptimisticLock.RowNotFound)
        assert.deepStrictEqual({ ...error }, { _tag: "RowNotFound", table: "trails", id: "-1" })
        assert.include(error.message, "There is no row -1 in trails")
      }
    })
  )

  it.effect("without changes writes nothing, but still compares the version", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      assert.deepStrictEqual(yield* update(trail, {}), trail)
      yield* update(trail, { length: 2 })
      assert.deepInclude({ ...(yield* Effect.flip(update(trail, {}))) }, { _tag: "Stale", expected: 1, actual: 2 })
    })
  )

  it.effect("sets fields that have a default of their own", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      // The test clock stands at the epoch, the database's clock does not.
      assert.strictEqual((yield* update(trail, { length: 2 })).updatedAt.epochMilliseconds, 0)
    })
  )

  it.effect("refuses a change of a field that updates do not have, instead of leaving it out", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      // A variable may have more fields than its type says.
      const changes: { readonly length: number } = Object.assign({ length: 5 }, { status: "archived" })
      assert.isTrue(Schema.isSchemaError(yield* Effect.flip(update(trail, changes))))
      assert.deepStrictEqual(yield* find(trail.id), Option.some(trail))
    })
  )

  it.effect("takes a changeset", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail({ length: 4 })
      const { changes, data } = yield* Changeset.patch(Trail.jsonUpdate, trail, { name: "Gorge", length: 4 })
      assert.deepStrictEqual(changes, { name: "Gorge" })
      assert.deepInclude({ ...(yield* update(data, changes)) }, { name: "Gorge", length: 4, version: 2 })
    })
  )

  it.effect("belongs to the transaction around it", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      yield* Effect.exit(sql.withTransaction(Effect.andThen(update(trail, { length: 2 }), Effect.fail("no"))))
      assert.deepStrictEqual(yield* find(trail.id), Option.some(trail))
    })
  )

  it.effect("lets exactly one of several concurrent updates of a version win, round after round", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      let trail = yield* insertTrail()
      for (let round = 0; round < 150; round++) {
        const results = yield* Effect.forEach(
          [1, 2, 3, 4, 5, 6],
          (length) => Effect.result(update(trail, { length: round * 10 + length })),
          { concurrency: "unbounded" }
        )
        const won = results.filter(Result.isSuccess)
        const lost = results.filter(Result.isFailure).map(({ failure }) => failure)
        assert.strictEqual(won.length, 1)
        for (const error of lost) {
          assert.deepInclude({ ...error }, { _tag: "Stale", expected: trail.version, actual: trail.version + 1 })
        }
        assert.deepStrictEqual(yield* find(trail.id), Option.some(won[0]!.success))
        trail = won[0]!.success
      }
      assert.strictEqual(trail.version, 151)
    })
  )

  it.effect("loses no update when the losers read again and retry", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail({ length: 1 })
      const lengthen = Effect.flatMap(find(trail.id), (found) =>
        Option.match(found, {
          onNone: () => Effect.die("deleted"),
          onSome: (current) => update(current, { length: current.length + 1 })
        })
      ).pipe(Effect.retry({ while: (error) => error._tag === "Stale" }))
      yield* Effect.forEach(Array.from({ length: 120 }), () => lengthen, { concurrency: 8, discard: true })
      const final = Option.getOrThrow(yield* find(trail.id))
      assert.deepInclude({ ...final }, { length: 121, version: 121 })
    })
  )

  /** Runs `first` in a transaction that stays open until `second` waits for its lock, then ends it. */
  const whileLocked = <A, E, R, A2, E2, R2>(
    first: Effect.Effect<A, E, R>,
    end: "commit" | "rollback",
    second: Effect.Effect<A2, E2, R2>
  ) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const locked = yield* Deferred.make<void>()
      const release = yield* Deferred.make<void>()
      const holder = yield* Effect.forkChild(
        sql.withTransaction(
          Effect.gen(function* () {
            yield* first
            yield* Deferred.succeed(locked, undefined)
            yield* Deferred.await(release)
            if (end === "rollback") return yield* Effect.fail("rolled back" as const)
          })
        )
      )
      yield* Deferred.await(locked)
      const waiter = yield* Effect.forkChild(second)
      const blocked = sql<{ readonly n: number }>`
        select count(*)::int as n from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`
      while ((yield* blocked)[0]?.n === 0) yield* Effect.yieldNow
      yield* Deferred.succeed(release, undefined)
      yield* Effect.exit(Fiber.join(holder))
      return yield* Fiber.await(waiter)
    })

  it.effect("waits for a transaction that has the row, and is Stale if that one commits", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      const exit = yield* whileLocked(update(trail, { length: 2 }), "commit", Effect.flip(update(trail, { length: 3 })))
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepInclude(Exit.isSuccess(exit) ? { ...exit.value } : {}, { _tag: "Stale", expected: 1, actual: 2 })
    })
  )

  it.effect("waits for a transaction that has the row, and wins if that one rolls back", () =>
    Effect.gen(function* () {
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      const exit = yield* whileLocked(update(trail, { length: 2 }), "rollback", update(trail, { length: 3 }))
      assert.deepInclude(Exit.isSuccess(exit) ? { ...exit.value } : {}, { length: 3, version: 2 })
    })
  )

  it.effect("says RowNotFound, not Stale, if the transaction that has the row deletes it", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      const exit = yield* whileLocked(
        sql`delete from trails where id = ${trail.id}`,
        "commit",
        Effect.flip(update(trail, { length: 3 }))
      )
      assert.deepInclude(Exit.isSuccess(exit) ? { ...exit.value } : {}, { _tag: "RowNotFound" })
    })
  )

  it.effect("sees other columns that a concurrent transaction wrote without touching the version", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const update = yield* makeUpdate
      const trail = yield* insertTrail({ name: "before" })
      const exit = yield* whileLocked(
        sql`update trails set name = ${"after"} where id = ${trail.id}`,
        "commit",
        update(trail, { length: 3 })
      )
      assert.deepInclude(Exit.isSuccess(exit) ? { ...exit.value } : {}, { name: "after", length: 3, version: 2 })
    })
  )

  it.effect("is a retryable serialization failure under serializable isolation", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const update = yield* makeUpdate
      const trail = yield* insertTrail()
      const looked = yield* Deferred.make<void>()
      const changed = yield* Deferred.make<void>()
      const late = yield* Effect.gen(function* () {
        yield* sql`select 1 from trails where id = ${trail.id}`
        yield* Deferred.succeed(looked, undefined)
        yield* Deferred.await(changed)
        return yield* update(trail, { length: 3 })
      }).pipe(
        sql.withTransaction,
        Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL SERIALIZABLE"),
        Effect.flip,
        Effect.forkChild
      )
      yield* Deferred.await(looked)
      yield* update(trail, { length: 2 })
      yield* Deferred.succeed(changed, undefined)
      const error = yield* Fiber.join(late)
      assert.isTrue(error._tag === "SqlError" && error.reason._tag === "SerializationError" && error.isRetryable)
    })
  )

  it.effect("speaks the column names of a client that renames them, and qualified table names", () =>
    Effect.gen(function* () {
      class Page extends Model.Class<Page>("Page")({
        pageId: Model.GeneratedByDb(Schema.Int),
        pageTitle: Schema.String,
        lockVersion: Model.GeneratedByDb(Schema.Int)
      }) {}
      const server = yield* Postgres.Server
      const renaming = yield* Postgres.connect(server.url(), {
        transformQueryNames: String.camelToSnake,
        transformResultNames: String.snakeToCamel
      })
      yield* renaming`create schema wood`
      yield* renaming`
        create table wood.pages
          (page_id int primary key, page_title text not null, lock_version int not null default 1)`
      yield* renaming`insert into wood.pages (page_id, page_title) values (1, ${"first"})`
      const update = yield* Effect.provideService(
        OptimisticLock.makeUpdate(Page, {
          tableName: "wood.pages",
          spanPrefix: "Pages",
          idColumn: "pageId",
          versionColumn: "lockVersion"
        }),
        SqlClient.SqlClient,
        renaming
      )
      const page = { pageId: 1, lockVersion: 1 }
      assert.deepStrictEqual(
        { ...(yield* update(page, { pageTitle: "second" })) },
        { pageId: 1, pageTitle: "second", lockVersion: 2 }
      )
      assert.deepInclude(
        { ...(yield* Effect.flip(update(page, { pageTitle: "third" }))) },
        { _tag: "Stale", actual: 2 }
      )
      assert.deepInclude({ ...(yield* Effect.flip(update(page, {}))) }, { _tag: "Stale", actual: 2 })
    }).pipe(Effect.provide(Reactivity.layer))
  )
})
