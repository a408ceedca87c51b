/**
 * The global setup of a vitest run whose tests use `Postgres.layerTestDatabase`.
 *
 * ```ts
 * import { defineConfig } from "vitest/config"
 *
 * export default defineConfig({ test: { globalSetup: ["@coppice/postgres/testing/global-setup"] } })
 * ```
 *
 * It starts one throw-away server for the run, which takes about half a second and is gone when the run is, even if it
 * is killed; or it uses the server that `DATABASE_URL` names, and removes what this run and killed runs left there.
 * Without a server the run goes on: the tests that need one say why there is none.
 */
import type { PgClient } from "@effect/sql-pg"
import { Context, Effect, Exit, Layer, Redacted, References, Schema, Scope } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { randomInt } from "node:crypto"
import { connectOnce, Server, unreachable } from "../internal/database.ts"
import { variable, Variable } from "../internal/testServer.ts"
import * as Postgres from "../Postgres.ts"

/** Starts the server, and returns what stops it. */
export default async function setup(): Promise<() => Promise<void>> {
  const scope = Scope.makeUnsafe()
  const found = await Effect.runPromise(start.pipe(Scope.provide(scope), Effect.catch(explain)))
  // Workers inherit the environment.
  process.env[variable] = Schema.encodeSync(Variable)(found)
  return () => Effect.runPromise(Scope.close(scope, Exit.void))
}

const explain = (error: { readonly message: string }) => Effect.succeed({ problem: error.message })

const start = Effect.gen(function* () {
  const quiet = Layer.succeed(References.MinimumLogLevel, "Warn")
  const server = Context.get(
    yield* Layer.build(Layer.provide(Postgres.layerServer({ temporary: true }), quiet)),
    Server
  )
  const url = server.url()
  const client = yield* connectOnce(url)
  const run = randomInt(2 ** 31 - 1)
  const prefix = yield* Effect.mapError(claim(client, run), (error) => unreachable(url, error))
  // An embedded server goes with everything that is on it.
  if (!server.embedded) yield* Effect.addFinalizer(() => Effect.orDie(removeDatabases(client, prefix)))
  return { url: Redacted.value(url), prefix }
})

/** The first half of the advisory lock that says that a run is alive; the second is the run's number. */
const lockClass = 0x636f7070

/** Takes a run's number, and removes what runs left whose number nobody has. Locks are known within a database only. */
const claim = Effect.fnUntraced(function* (client: PgClient.PgClient, run: number) {
  const [database] = yield* client<{ readonly oid: string }>`
    select oid::text as oid from pg_database where datname = current_database()`
  const base = `coppice_test_${database?.oid}`
  yield* client`select pg_advisory_lock(${lockClass}::int4, ${run}::int4)`
  const others = yield* client<{ readonly run: number }>`
    select distinct substring(datname from ${`^${base}_(\\d+)_`})::int4 as run
    from pg_database where datname ~ ${`^${base}_\\d+_`}`
  for (const { run } of others) {
    const [lock] = yield* client<{ readonly taken: boolean }>`
      select pg_try_advisory_lock(${lockClass}::int4, ${run}::int4) as taken`
    if (lock?.taken !== true) continue
    yield* removeDatabases(client, `${base}_${run}`)
    yield* client`select pg_advisory_unlock(${lockClass}::int4, ${run}::int4)`
  }
  return `${base}_${run}`
})

const removeDatabases = (client: PgClient.PgClient, prefix: string): Effect.Effect<void, SqlError> =>
  Effect.flatMap(
    client<{
      readonly name: string
    }>`select datname as name from pg_database where starts_with(datname, ${`${prefix}_`})`,
    Effect.forEach(({ name }) => client.unsafe(`drop database if exists "${name}" with (force)`), { discard: true })
  )
