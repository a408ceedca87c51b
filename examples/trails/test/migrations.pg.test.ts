import { Postgres } from "@coppice/postgres"
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Migrator, SqlClient } from "effect/sql"
import { names } from "../src/Database.ts"
import createTrails from "../src/migrations/0001_create_trails.ts"
import * as Migrations from "../src/migrations/index.ts"

layer(Postgres.layerTestDatabase({ pool: names }))("Migrations", (it) => {
  it.effect("bring a database of the first version up to date, and wait for nothing that nobody will look up", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Migrator.make({})({
        loader: Migrator.fromRecord({ "0001_create_trails": createTrails }),
        table: "trails_migrations"
      })
      const trail = "018f0000-0000-7000-8000-000000000000"
      yield* sql`insert into users (name) values ('ada')`
      yield* sql`insert into trails (id, owner_id, name, created_at) select ${trail}, id, 'Ridge', now() from users`
      const capture = (url: string) =>
        sql`insert into pages (trail_id, url, captured_at) values (${trail}, ${url}, now())`
      yield* capture("https://example.org/old")
      yield* Migrations.run
      yield* Migrations.run
      yield* capture("https://example.org/new")
      assert.deepStrictEqual(yield* sql`select url, metadata from pages order by id`, [
        { url: "https://example.org/old", metadata: "missing" },
        { url: "https://example.org/new", metadata: "pending" }
      ])
    })
  )
})

layer(Postgres.layerTestDatabase({ pool: { ...names, maxConnections: 8 } }))("Migrations", (it) => {
  it.effect("run once, however many processes start at once on an empty database", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* Effect.all(
        Array.from({ length: 8 }, () => Migrations.run),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(yield* sql`select * from trails_migrations`, 2)
    })
  )
})
