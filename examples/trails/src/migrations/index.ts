/** The schema of the database, as steps that run once and in order. A step that was released is never edited. */
import { Effect } from "effect"
import { Migrator, SqlClient } from "effect/sql"
import createTrails from "./0001_create_trails.ts"
import followTrails from "./0002_follow_trails.ts"

/** Any number of processes may start at once: one takes the steps, the others wait for it. */
export const run = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* Effect.andThen(sql`select pg_advisory_xact_lock(hashtextextended('trails_migrations', 0))`, steps).pipe(
    sql.withTransaction
  )
})

const steps = Migrator.make({})({
  loader: Migrator.fromRecord({ "0001_create_trails": createTrails, "0002_follow_trails": followTrails }),
  table: "trails_migrations"
})
