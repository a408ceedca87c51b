import { OptimisticLock, Transition } from "@coppice/domain"
import { assert, layer } from "@effect/vitest"
import { Effect, Result, Schema } from "effect"
import { Model } from "effect/schema"
import { SqlClient } from "effect/sql"
import { Database, insertTrail, Trail, TrailId, transition, update } from "./fixtures/trails.ts"

const statusOf = (id: typeof TrailId.Type) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const rows = yield* sql<{ readonly status: string }>`select status from trails where id = ${id}`
    return rows[0]?.status
  })

layer(Database)("Transition.makeUpdate", (it) => {
  it.effect("moves the row along a declared step, writes other fields with it and gives the new row", () =>
    Effect.gen(function* () {
      const move = yield* transition
      const trail = yield* insertTrail({ status: "draft" })
      const active = yield* move(trail.id, "active", { length: 7 })
      assert.instanceOf(active, Trail)
      assert.deepInclude({ ...active }, { id: trail.id, status: "active", length: 7, version: 2 })
      assert.strictEqual(active.updatedAt.epochMilliseconds, 0)
      assert.strictEqual((yield* move(trail.id, "paused")).status, "paused")
    })
  )

  it.effect("fails with InvalidTransition, and writes nothing, from a state that does not allow the step", () =>
    Effect.gen(function* () {
      const move = yield* transition
      const trail = yield* insertTrail({ status: "archived" })
      const error = yield* Effect.flip(move(trail.id, "active", { length: 7 }))
      assert.instanceOf(error, Transition.InvalidTransition)
      assert.deepInclude({ ...error }, { from: "archived", to: "active", allowed: [] })
      assert.strictEqual(yield* statusOf(trail.id), "archived")
    })
  )

  it.effect("refuses a state that none may go to", () =>
    Effect.gen(function* () {
      const move = yield* transition
      const trail = yield* insertTrail({ status: "active" })
      const error = yield* Effect.flip(move(trail.id, "draft"))
      assert.deepInclude({ ...error }, { from: "active", to: "draft" })
    })
  )

  it.effect("refuses the state in which the row already is, so a second click is told so", () =>
    Effect.gen(function* () {
      const move = yield* transition
      const trail = yield* insertTrail({ status: "paused" })
      const error = yield* Effect.flip(move(trail.id, "paused"))
      assert.deepInclude({ ...error }, { from: "paused", to: "paused", allowed: ["active", "archived"] })
    })
  )

  it.effect("fails with RowNotFound when there is no such row", () =>
    Effect.gen(function* () {
      const move = yield* transition
      const error = yield* Effect.flip(move(TrailId.make(-1), "paused"))
      assert.instanceOf(error, Transition.RowNotFound)
    })
  )

  it.effect("makes optimistic updates stale that are based on the row as it was", () =>
    Effect.gen(function* () {
      const move = yield* transition
      const trail = yield* insertTrail({ status: "active" })
      yield* move(trail.id, "paused")
      const error = yield* Effect.flip((yield* update)(trail, { length: 5 }))
      assert.instanceOf(error, OptimisticLock.Stale)
    })
  )

  it.effect("lets exactly one of several concurrent steps win, round after round", () =>
    Effect.gen(function* () {
      const move = yield* transition
      const { id } = yield* insertTrail({ status: "active" })
      for (let round = 0; round < 100; round++) {
        const [from, to] = round % 2 === 0 ? (["active", "paused"] as const) : (["paused", "active"] as const)
        const results = yield* Effect.forEach(Array.from({ length: 6 }), () => Effect.result(move(id, to)), {
          concurrency: "unbounded"
        })
        assert.strictEqual(results.filter(Result.isSuccess).length, 1, `${from} to ${to}`)
        for (const { failure } of results.filter(Result.isFailure)) {
          assert.deepInclude({ ...failure }, { _tag: "InvalidTransition", from: to, to })
        }
      }
    })
  )

  it.effect("never blames a state from which the step was allowed, while others flip the row back and forth", () =>
    Effect.gen(function* () {
      const move = yield* transition
      const trail = yield* insertTrail({ status: "active" })
      const steps = Array.from({ length: 400 }, (_, n) => (n % 2 === 0 ? "paused" : "active") as "paused" | "active")
      const results = yield* Effect.forEach(steps, (to) => Effect.result(move(trail.id, to)), { concurrency: 8 })
      const refused = results.filter(Result.isFailure).map(({ failure }) => failure)
      for (const error of refused) {
        assert.strictEqual(error._tag, "InvalidTransition")
        if (error._tag === "InvalidTransition") assert.notInclude(error.allowed, error.to)
      }
      const done = results.filter(Result.isSuccess)
      const versions = done.map(({ success }) => success.version)
      assert.strictEqual(new Set(versions).size, done.length)
      assert.strictEqual(Math.max(...versions), done.length + 1)
    })
  )

  it.effect("works on a column of an enum type, and on a table without a version", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const Status = Transition.make({ open: ["closed"], closed: [] })
      class Gate extends Model.Class<Gate>("Gate")({
        id: Model.GeneratedByDb(Schema.Int),
        status: Status.schema
      }) {}
      yield* sql`create type gate_status as enum ('open', 'closed')`
      yield* sql`create table gates (id int primary key, status gate_status not null)`
      yield* sql`insert into gates values (1, 'open')`
      const move = yield* Transition.makeUpdate(Status, Gate, {
        tableName: "gates",
        spanPrefix: "Gates",
        idColumn: "id",
        statusColumn: "status"
      })
      assert.deepStrictEqual({ ...(yield* move(1, "closed")) }, { id: 1, status: "closed" })
      assert.deepInclude({ ...(yield* Effect.flip(move(1, "closed"))) }, { from: "closed", to: "closed" })
    })
  )
})
