import { Changeset, type ValidationError } from "@coppice/domain"
import { assert, layer } from "@effect/vitest"
import { Cause, Effect, Exit, Result, Schema } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import { Database, insertTrail, repository, Trail, uniqueName } from "./fixtures/trails.ts"

const constraints = Changeset.constraints({
  trails_owner_name_key: { field: "name", message: "is already taken" },
  trails_lower_name: { field: "name", message: "differs from another only by case" },
  trails_owner_fkey: { field: "owner", message: "does not exist" },
  trails_length_positive: { field: "length", message: "must be greater than 0" },
  trails_name_not_null: { field: "name", message: "is required" },
  outings_trail_fkey: { field: "trail", message: "does not exist" },
  outings_overlap: { field: "during", message: "overlaps another outing" }
})

const fieldsOf = <A, E, R>(effect: Effect.Effect<A, E | ValidationError.ValidationError, R>) =>
  Effect.map(Effect.flip(effect), (error) => (error as ValidationError.ValidationError).fields)

const insert = (fields: { readonly owner?: number; readonly name?: string; readonly length?: number }) =>
  Effect.gen(function* () {
    const trails = yield* repository
    return yield* trails.insert(
      Trail.insert.make({ owner: 1, name: yield* uniqueName, length: 1, status: "draft", ...fields })
    )
  })

const sqlErrorDefect = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit)
    ? exit.cause.reasons.filter(Cause.isDieReason).find(({ defect }) => SqlError.isSqlError(defect))?.defect
    : undefined

layer(Database)("Changeset.constraints on PostgreSQL", (it) => {
  it.effect("a unique constraint", () =>
    Effect.gen(function* () {
      const trail = yield* constraints(insert({}))
      assert.deepStrictEqual(yield* fieldsOf(constraints(insert({ name: trail.name }))), { name: ["is already taken"] })
    })
  )

  it.effect("a unique index on an expression", () =>
    Effect.gen(function* () {
      yield* constraints(insert({ owner: 2, name: "Ridge" }))
      assert.deepStrictEqual(yield* fieldsOf(constraints(insert({ owner: 2, name: "RIDGE" }))), {
        name: ["differs from another only by case"]
      })
    })
  )

  it.effect("a foreign key", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* fieldsOf(constraints(insert({ owner: 99 }))), { owner: ["does not exist"] })
    })
  )

  it.effect("the same foreign key, when the row it points to is deleted", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* insert({})
      const fields = yield* fieldsOf(
        sql`delete from owners where id = 1`.pipe(
          Changeset.constraints({ trails_owner_fkey: { field: [], message: "still has trails" } })
        )
      )
      assert.deepStrictEqual(fields, { $: ["still has trails"] })
    })
  )

  it.effect("a check", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* fieldsOf(constraints(insert({ length: 0 }))), {
        length: ["must be greater than 0"]
      })
    })
  )

  it.effect("a null, which is named after its table and column", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      assert.deepStrictEqual(
        yield* fieldsOf(constraints(sql`insert into trails (owner, length, status) values (1, 1, 'draft')`)),
        { name: ["is required"] }
      )
    })
  )

  it.effect("an exclusion constraint", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { id } = yield* insertTrail()
      yield* sql`insert into outings values (${id}, '[1,5)')`
      assert.deepStrictEqual(yield* fieldsOf(constraints(sql`insert into outings values (${id}, '[4,9)')`)), {
        during: ["overlaps another outing"]
      })
    })
  )

  it.effect("a deferred constraint, which is only checked when the transaction commits", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const transaction = sql.withTransaction(sql`insert into outings values (-1, '[1,5)')`)
      assert.deepStrictEqual(yield* fieldsOf(constraints(transaction)), { trail: ["does not exist"] })
    })
  )

  it.effect("an undeclared constraint stays a defect with everything the server said", () =>
    Effect.gen(function* () {
      const exit = yield* insert({ length: 0 }).pipe(Changeset.constraints({}), Effect.exit)
      const defect = sqlErrorDefect(exit)
      assert.isTrue(SqlError.isSqlError(defect) && defect.reason._tag === "ConstraintError")
      assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "trails_length_positive")
    })
  )

  it.effect("any other error of the database stays a defect", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const exit = yield* Effect.exit(constraints(sql`select * from no_such_table`))
      const defect = sqlErrorDefect(exit)
      assert.isTrue(SqlError.isSqlError(defect) && defect.reason._tag === "SqlSyntaxError")
    })
  )

  it.effect("a violation inside a nested transaction leaves the outer one usable", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { name } = yield* insertTrail()
      const kept = yield* sql.withTransaction(
        Effect.gen(function* () {
          const taken = yield* Effect.result(constraints(sql.withTransaction(insert({ name }))))
          assert.isTrue(Result.isFailure(taken))
          return yield* insert({})
        })
      )
      const rows = yield* sql`select 1 from trails where id = ${kept.id}`
      assert.strictEqual(rows.length, 1)
    })
  )

  it.effect("of two concurrent inserts of one value exactly one gets the field error, round after round", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      for (let round = 0; round < 100; round++) {
        const name = yield* uniqueName
        const results = yield* Effect.forEach(
          [1, 2],
          // In a transaction with a second statement, so that one of them has to wait for the other.
          () => Effect.result(constraints(sql.withTransaction(Effect.tap(insert({ name }), sql`select 1`)))),
          { concurrency: "unbounded" }
        )
        const errors = results.filter(Result.isFailure).map(({ failure }) => failure)
        assert.deepStrictEqual(
          errors.map((error) => error.fields),
          [{ name: ["is already taken"] }]
        )
        assert.strictEqual((yield* sql`select 1 from trails where name = ${name}`).length, 1)
      }
    })
  )
})

layer(Database)("Changeset.cast before PostgreSQL", (it) => {
  const Input = Schema.Struct({ name: Schema.String })

  it.effect("catches a NUL that the database would refuse with an error of no field", () =>
    Effect.gen(function* () {
      const name = "a\u0000b"
      const exit = yield* Effect.exit(constraints(insert({ name })))
      assert.isDefined(sqlErrorDefect(exit))
      assert.deepStrictEqual(yield* fieldsOf(Changeset.cast(Input, { name })), {
        name: ["must not contain the NUL character"]
      })
    })
  )

  it.effect("catches half of a surrogate pair that would come back as another character", () =>
    Effect.gen(function* () {
      const name = "half \ud83d"
      const trail = yield* constraints(insert({ name }))
      assert.strictEqual(trail.name, "half \ufffd")
      assert.property(yield* fieldsOf(Changeset.cast(Input, { name })), "name")
    })
  )

  it.effect("lets every string through that comes back as it was", () =>
    Effect.gen(function* () {
      for (const name of ["", "\u0001\u007f", "😀", "\ufeff\ufffe", "e\u0301", "\u202e"]) {
        const cast = yield* Changeset.cast(Input, { name })
        assert.strictEqual((yield* constraints(insert({ name: cast.name }))).name, name)
      }
    })
  )
})
