/** The database of the application: Postgres, with its schema up to date. */
import { Postgres } from "@coppice/postgres"
import { Layer, String } from "effect"
import { join } from "node:path"
import * as Migrations from "./migrations/index.ts"

/** Fields are written `ownerId`, columns `owner_id`. */
export const names = {
  transformQueryNames: String.camelToSnake,
  transformResultNames: String.snakeToCamel
} as const

/** `DATABASE_URL` if it is set, else a server of our own with its files in `postgres` in the folder. */
export const layer = (folder: string) =>
  Layer.effectDiscard(Migrations.run).pipe(
    Layer.provideMerge(Postgres.layerWith({ dataDir: join(folder, "postgres"), pool: names }))
  )
