/** The schema of the database, as steps that run once and in order. A step that was released is never edited. */
import { Migrator } from "effect/sql"
import createTrails from "./0001_create_trails.ts"
import followTrails from "./0002_follow_trails.ts"

export const run = Migrator.make({})({
  loader: Migrator.fromRecord({ "0001_create_trails": createTrails, "0002_follow_trails": followTrails }),
  table: "trails_migrations"
})
