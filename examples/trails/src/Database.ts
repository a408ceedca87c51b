/** The database of the application: Postgres, with its schema up to date. */
import { Postgres } from "@coppice/postgres"
import { Effect, Layer, Redacted, String } from "effect"
import { join } from "node:path"
import * as Migrations from "./migrations/index.ts"
import type { Settings } from "./Settings.ts"

/** Fields are written `ownerId`, columns `owner_id`. */
export const names = {
  transformQueryNames: String.camelToSnake,
  transformResultNames: String.snakeToCamel
} as const

/** `DATABASE_URL` if it is set, else a server of our own with its files in `postgres` in the folder. */
export const layer = ({ data, share }: Pick<Settings, "data" | "share">) =>
  Layer.effectDiscard(share ? Effect.andThen(Migrations.run, invite) : Migrations.run).pipe(
    Layer.provideMerge(Postgres.layerWith({ dataDir: join(data, "postgres"), pool: names }))
  )

/** Whoever has the address has the database, so it is told only when it is asked for. */
const invite = Effect.gen(function* () {
  const server = yield* Postgres.Server
  if (!server.embedded) return
  yield* Effect.log(`Other processes share this database with DATABASE_URL='${Redacted.value(server.url())}'`)
})
