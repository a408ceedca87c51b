import { assert, describe, it } from "@effect/vitest"
import { Postgres } from "@coppice/postgres"
import { Effect, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { eventually, type Program, runFixture, runFolders } from "./fixtures/machine.ts"

const databaseOf = (program: Program) => {
  const said = () => program.lines.find((line) => line.startsWith("database "))
  return Effect.map(
    eventually(() => said() !== undefined),
    () => said()?.slice("database ".length) ?? ""
  )
}

const databases = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ readonly name: string }>`select datname as name from pg_database`
  return rows.map((row) => row.name)
})

describe("a test run that is killed", () => {
  it.live("leaves no server and no folder", () =>
    Effect.gen(function* () {
      const run = yield* runFixture("testRun.ts")
      yield* databaseOf(run)
      assert.lengthOf(runFolders(), 1)
      yield* run.kill
      yield* eventually(() => runFolders().length === 0)
    }).pipe(Effect.scoped)
  )

  it.live("leaves its databases on a server of others to the next run, which spares those of living runs", () =>
    Effect.gen(function* () {
      const environment = { DATABASE_URL: Redacted.value((yield* Postgres.Server).url()) }
      const killed = yield* runFixture("testRun.ts", [], environment)
      const abandoned = yield* databaseOf(killed)
      yield* killed.kill
      assert.include(yield* databases, abandoned)
      const living = yield* databaseOf(yield* runFixture("testRun.ts", [], environment))
      assert.notInclude(yield* databases, abandoned)
      yield* databaseOf(yield* runFixture("testRun.ts", [], environment))
      assert.include(yield* databases, living)
    }).pipe(Effect.scoped, Effect.provide(Postgres.layerTestDatabase()))
  )
})
