import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Option } from "effect"
import { SqlClient } from "effect/sql"
import * as Seed from "../src/Seed.ts"
import { TrailId } from "../src/Trail.ts"
import { Trails } from "../src/Trails.ts"
import { Users } from "../src/Users.ts"
import { Domain, newTrail, newUser, listen } from "./fixtures/domain.ts"

const nowhere = TrailId.make("01a208b4-33b2-72d1-85a5-d8693a2fa0b9")

layer(Domain)("Trails", (it) => {
  it.effect("starts an active trail under a trimmed name", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const owner = yield* newUser
      const trail = yield* trails.create(owner.id, { name: "  Ridge walks ", status: "paused", version: 9 })
      assert.deepInclude({ ...trail }, { name: "Ridge walks", status: "active", version: 1, ownerId: owner.id })
      assert.deepStrictEqual(yield* trails.find(owner.id, trail.id), { ...trail, pages: 0 })
    })
  )

  it.effect("tells what is wrong with a name", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const owner = yield* newUser
      const fieldsOf = (input: unknown) =>
        Effect.map(Effect.flip(trails.create(owner.id, input)), ({ fields }) => fields)
      assert.deepStrictEqual(yield* fieldsOf({}), { name: ["is required"] })
      assert.deepStrictEqual(yield* fieldsOf({ name: "   " }), { name: ["must not be empty"] })
      assert.deepStrictEqual(yield* fieldsOf({ name: 7 }), { name: ["must be a string"] })
      assert.deepStrictEqual(yield* fieldsOf({ name: "x".repeat(81) }), {
        name: ["must be no longer than 80 characters"]
      })
      assert.hasAllKeys(yield* fieldsOf({ name: "a\0b" }), ["name"])
      assert.deepStrictEqual(yield* trails.list(owner.id), [])
    })
  )

  it.effect("gives a name to one trail of an owner only, however many ask at once", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const owner = yield* newUser
      const other = yield* newUser
      const exits = yield* Effect.all(
        Array.from({ length: 8 }, () => Effect.exit(trails.create(owner.id, { name: "Ridge" }))),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(exits.filter(Exit.isSuccess), 1)
      const error = yield* Effect.flip(trails.create(owner.id, { name: "Ridge" }))
      assert.deepStrictEqual(error.fields, { name: ["is the name of another trail of yours"] })
      assert.strictEqual((yield* trails.create(other.id, { name: "Ridge" })).name, "Ridge")
    })
  )

  it.effect("lists the trails of their owner, newest first", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const owner = yield* newUser
      for (const name of ["one", "two", "three"]) yield* trails.create(owner.id, { name })
      assert.deepStrictEqual(
        (yield* trails.list(owner.id)).map(({ name }) => name),
        ["three", "two", "one"]
      )
    })
  )

  it.effect("renames a trail for who has seen its latest version, and for nobody else", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const { owner, trail } = yield* newTrail
      const renamed = yield* trails.rename(owner, trail.id, { name: "Valley", version: 1 })
      assert.deepInclude({ ...renamed }, { name: "Valley", version: 2, status: "active" })
      const stale = yield* Effect.flip(trails.rename(owner, trail.id, { name: "Summit", version: 1 }))
      assert.strictEqual(stale._tag, "Stale")
      assert.strictEqual((yield* trails.find(owner, trail.id)).name, "Valley")
    })
  )

  it.effect("lets exactly one of many renames of the same version through", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const { owner, trail } = yield* newTrail
      const exits = yield* Effect.all(
        Array.from({ length: 8 }, (_, n) => Effect.exit(trails.rename(owner, trail.id, { name: `n${n}`, version: 1 }))),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(exits.filter(Exit.isSuccess), 1)
      assert.strictEqual((yield* trails.find(owner, trail.id)).version, 2)
    })
  )

  it.effect("refuses the name of another trail when renaming, as a field error", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const { owner, trail } = yield* newTrail
      yield* trails.create(owner, { name: "Valley" })
      const error = yield* Effect.flip(trails.rename(owner, trail.id, { name: "Valley", version: 1 }))
      assert(error._tag === "ValidationError")
      assert.deepStrictEqual(error.fields, { name: ["is the name of another trail of yours"] })
    })
  )

  it.effect("pauses and resumes, each only from the other, and makes older versions stale", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const { owner, trail } = yield* newTrail
      assert.strictEqual((yield* trails.pause(owner, trail.id)).status, "paused")
      assert.strictEqual((yield* Effect.flip(trails.pause(owner, trail.id)))._tag, "InvalidTransition")
      const stale = yield* Effect.flip(trails.rename(owner, trail.id, { name: "Valley", version: 1 }))
      assert.strictEqual(stale._tag, "Stale")
      assert.deepInclude({ ...(yield* trails.resume(owner, trail.id)) }, { status: "active", version: 3 })
      assert.strictEqual((yield* Effect.flip(trails.resume(owner, trail.id)))._tag, "InvalidTransition")
    })
  )

  it.effect("knows no trail of another owner, whatever is asked", () =>
    Effect.gen(function* () {
      const trails = yield* Trails
      const { trail } = yield* newTrail
      const stranger = (yield* newUser).id
      const rename = { name: "Mine", version: 1 }
      for (const id of [trail.id, nowhere]) {
        const asked: ReadonlyArray<Effect.Effect<unknown, { readonly _tag: string }>> = [
          trails.find(stranger, id),
          trails.rename(stranger, id, rename),
          trails.pause(stranger, id),
          trails.resume(stranger, id)
        ]
        for (const effect of asked) assert.strictEqual((yield* Effect.flip(effect))._tag, "TrailNotFound")
      }
      assert.deepInclude(Option.getOrThrow(yield* trails.get(trail.id)), { name: "Ridge", status: "active" })
    })
  )

  it.effect("tells of a change when it has committed, and of none that was rolled back or refused", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const trails = yield* Trails
      const { owner, trail } = yield* newTrail
      const told = yield* listen(trail.id)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* trails.pause(owner, trail.id)
          assert.deepStrictEqual(yield* told, [])
        })
      )
      assert.deepStrictEqual(yield* told, [{ _tag: "TrailChanged", version: 2 }])
      yield* Effect.exit(sql.withTransaction(Effect.andThen(trails.resume(owner, trail.id), Effect.fail("no"))))
      yield* Effect.exit(trails.pause(owner, trail.id))
      assert.deepStrictEqual(yield* told, [])
    })
  )

  it.effect("keeps rows that code did not check out of the tables", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { trail } = yield* newTrail
      for (const statement of [
        sql`update trails set status = 'lost' where id = ${trail.id}`,
        sql`update trails set name = '' where id = ${trail.id}`,
        sql`update trails set owner_id = 0 where id = ${trail.id}`,
        sql`insert into pages (trail_id, url, captured_at) values (${trail.id}, 'javascript:alert(1)', now())`,
        sql`insert into pages (trail_id, url, captured_at) values (${nowhere}, 'https://example.org', now())`,
        sql`delete from users`
      ]) {
        const { reason } = yield* Effect.flip(statement)
        assert.include(["ConstraintError", "UniqueViolation"], reason._tag)
      }
    })
  )
})

layer(Domain)("Seed", (it) => {
  it.effect("adds the demo user and trail once, also when several applications start together", () =>
    Effect.gen(function* () {
      const users = yield* Users
      const trails = yield* Trails
      const runs = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(Seed.run))
      yield* Effect.forEach(runs, Fiber.join)
      yield* Seed.run
      const demo = yield* users.find(Seed.demoUser)
      const [trail, ...others] = yield* trails.list(demo.id)
      assert.isAbove(trail?.pages ?? 0, 0)
      assert.lengthOf(others, 0)
    })
  )

  it.effect("does not add again what the demo user has thrown away", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Seed.run
      for (const table of ["followers", "pages", "trails"]) yield* sql`delete from ${sql(table)}`
      yield* Seed.run
      assert.lengthOf(yield* sql`select 1 from trails`, 0)
    })
  )
})
