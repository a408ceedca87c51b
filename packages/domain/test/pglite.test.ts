import { Changeset, type ValidationError } from "@coppice/domain"
import { Postgres } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { insertTrail, migrate, transition, update } from "./fixtures/trails.ts"

const constraints = Changeset.constraints({
  trails_owner_name_key: { field: "name", message: "is already taken" },
  trails_owner_fkey: { field: "owner", message: "does not exist" },
  trails_length_positive: { field: "length", message: "must be greater than 0" },
  trails_name_not_null: { field: "name", message: "is required" }
})

const Database = Layer.provideMerge(Layer.effectDiscard(migrate), Postgres.layerTest)

layer(Database)("on the PGlite of tests with virtual time", (it) => {
  it.effect("violated constraints are field errors", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { name } = yield* insertTrail()
      const violate = (row: Readonly<Record<string, unknown>>) =>
        constraints(
          sql`insert into trails ${sql.insert({ owner: 1, name: "n", length: 1, status: "draft", ...row })}`
        ).pipe(
          Effect.flip,
          Effect.map((error: ValidationError.ValidationError) => error.fields)
        )
      assert.deepStrictEqual(yield* violate({ name }), { name: ["is already taken"] })
      assert.deepStrictEqual(yield* violate({ owner: 99 }), { owner: ["does not exist"] })
      assert.deepStrictEqual(yield* violate({ length: 0 }), { length: ["must be greater than 0"] })
      assert.deepStrictEqual(yield* violate({ name: null }), { name: ["is required"] })
    })
  )

  it.effect("guarded updates write, and say why they do not", () =>
    Effect.gen(function* () {
      const trail = yield* insertTrail({ status: "active" })
      const paused = yield* (yield* transition)(trail.id, "paused")
      assert.deepInclude({ ...paused }, { status: "paused", version: 2 })
      const error = yield* Effect.flip((yield* update)(trail, { length: 2 }))
      assert.deepInclude({ ...error }, { _tag: "Stale", expected: 1, actual: 2 })
    })
  )
})
