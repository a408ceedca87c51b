import { assert, describe, it } from "@effect/vitest"
import { Postgres, PostgresError } from "@coppice/postgres"
import { Child, Supervisor } from "@coppice/supervision"
import { ConfigProvider, Effect, Fiber, Layer, Redacted, References } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Account from "../src/internal/account.ts"
import * as EmbeddedServer from "../src/internal/server.ts"
import { eventually, isAlive, runFolders, temporaryFolder } from "./fixtures/machine.ts"

/** Nothing of the environment decides what these tests start. */
const environment = (variables: Readonly<Record<string, string>>) =>
  Layer.merge(
    ConfigProvider.layer(ConfigProvider.fromUnknown(variables)),
    Layer.succeed(References.MinimumLogLevel, "Warn")
  )

const embedded = (options: Postgres.Options) => Layer.provide(Postgres.layerWith(options), environment({}))

const insert = (n: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    yield* sql`create table if not exists kept(n int4)`
    yield* sql`insert into kept values (${n})`
    const rows = yield* sql<{ readonly n: number }>`select n from kept order by n`
    return rows.map((row) => row.n)
  })

const reasonWith = (options: Postgres.Options) =>
  Effect.gen(function* () {
    const error = yield* Effect.flip(Effect.provide(insert(1), embedded(options), { local: true }))
    assert.instanceOf(error, PostgresError.PostgresUnavailable)
    return error.reason
  })

describe("the embedded server", () => {
  // The test clock stands still, and nothing waits for it.
  it.effect("is PostgreSQL 18, and leaves no process and no folder behind", () =>
    Effect.gen(function* () {
      const pid = yield* Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const server = yield* Postgres.Server
        assert.isTrue(server.embedded)
        assert.strictEqual(sql.driver, "pg")
        const [row] = yield* sql<{ readonly version: number; readonly folder: string }>`
          select current_setting('server_version_num')::int4 / 10000 as version,
                 split_part(pg_read_file('postmaster.pid'), chr(10), 1)::int4 as pid`
        assert.deepInclude(row, { version: 18 })
        // Text is compared by code point, and the letters of all of Unicode have cases.
        assert.deepStrictEqual(yield* sql`select lower('ÉCOLE') as lower, 'Z' < 'a' as ordered`, [
          { lower: "école", ordered: true }
        ])
        return Number(Object(row).pid)
      }).pipe(Effect.provide(embedded({ temporary: true })))
      assert.isFalse(isAlive(pid))
      assert.deepStrictEqual(runFolders(), [])
    })
  )

  it.live("keeps data in its folder from one start to the next, many times in the same process", () =>
    Effect.gen(function* () {
      // A folder may be called anything, and lie deeper than a socket may.
      const dataDir = Path.join(yield* temporaryFolder, `it's "ü" $HOME; a\\b%20c`, "deep".repeat(40), "nested/data")
      for (let n = 1; n <= 6; n++) {
        const rows = yield* Effect.provide(insert(n), embedded({ dataDir }), { local: true })
        assert.deepStrictEqual(
          rows,
          Array.from({ length: n }, (_, i) => i + 1)
        )
      }
      // An option is stronger than DATABASE_DIR, and DATABASE_DIR than the default.
      const named = Layer.provide(Postgres.layer, environment({ DATABASE_DIR: dataDir }))
      assert.lengthOf(yield* Effect.provide(insert(7), Layer.fresh(named), { local: true }), 7)
    }).pipe(Effect.scoped)
  )

  it.live("refuses a folder that this process already uses, and says so", () =>
    Effect.gen(function* () {
      const dataDir = Path.join(yield* temporaryFolder, "data")
      yield* Effect.gen(function* () {
        const reason = yield* reasonWith({ dataDir })
        assert.instanceOf(reason, PostgresError.FolderInUse)
        assert.strictEqual(reason.owner, process.pid)
        assert.include(reason.message, `${dataDir} is in use by process ${process.pid}`)
        assert.include(reason.message, "DATABASE_URL=")
      }).pipe(Effect.provide(embedded({ dataDir })))
    }).pipe(Effect.scoped)
  )

  it.live("does not touch a folder that holds something else", () =>
    Effect.gen(function* () {
      const dataDir = yield* temporaryFolder
      Fs.writeFileSync(Path.join(dataDir, "thesis.txt"), "years of work")
      const reason = yield* reasonWith({ dataDir })
      assert.instanceOf(reason, PostgresError.StartFailed)
      assert.include(reason.message, `${dataDir} is not empty and not a PostgreSQL data folder`)
      assert.deepStrictEqual(Fs.readdirSync(dataDir), ["thesis.txt"])
    }).pipe(Effect.scoped)
  )

  it.live("says so when the folder is a file", () =>
    Effect.gen(function* () {
      const file = Path.join(yield* temporaryFolder, "file")
      Fs.writeFileSync(file, "years of work")
      for (const dataDir of [file, Path.join(file, "data")]) {
        const reason = yield* reasonWith({ dataDir })
        assert.instanceOf(reason, PostgresError.StartFailed)
        assert.include(reason.message, file)
      }
      assert.strictEqual(Fs.readFileSync(file, "utf8"), "years of work")
    }).pipe(Effect.scoped)
  )

  it.live("says what PostgreSQL said when it does not start", () =>
    Effect.gen(function* () {
      const settings = { shared_buffers: "much" }
      const reason = yield* reasonWith({ temporary: true, settings })
      assert.instanceOf(reason, PostgresError.StartFailed)
      assert.include(reason.message, `invalid value for parameter "shared_buffers": "much"`)
    })
  )

  it.live("is stopped when the start is interrupted", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Effect.provide(insert(1), embedded({ temporary: true })))
      yield* eventually(() => runFolders().length > 0)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(runFolders(), [])
    })
  )

  it.live("is restarted by a supervisor when it is killed, and its committed rows are still there", () =>
    Effect.gen(function* () {
      const dataDir = Path.join(yield* temporaryFolder, "data")
      const server = () => Number(Fs.readFileSync(Path.join(dataDir, "postmaster.pid"), "utf8").split("\n")[0])
      yield* Effect.gen(function* () {
        for (let n = 1; n <= 3; n++) {
          assert.lengthOf(yield* Effect.retry(insert(n), { while: Postgres.isTransient }), n)
          const killed = server()
          process.kill(killed, "SIGKILL")
          yield* eventually(() => Fs.existsSync(Path.join(dataDir, "postmaster.pid")) && server() !== killed)
        }
      }).pipe(
        Effect.provide(
          Supervisor.layer("App", {
            strategy: "one_for_one",
            maxRestarts: 3,
            children: [Child.layer("database", embedded({ dataDir }))]
          })
        ),
        Effect.provideService(References.MinimumLogLevel, "None")
      )
    }).pipe(Effect.scoped)
  )

  it.live.runIf(process.platform === "linux")(
    "starts although its killed predecessor's number is a stranger's now",
    () =>
      Effect.gen(function* () {
        const dataDir = Path.join(yield* temporaryFolder, "data")
        const lock = Path.join(dataDir, "postmaster.pid")
        const account = yield* Account.forFolder(undefined)
        const stranger = yield* Effect.acquireRelease(
          Effect.sync(() => spawn("sleep", ["600"], { ...account, stdio: "ignore" })),
          (child) => Effect.sync(() => child.kill())
        )
        yield* Effect.gen(function* () {
          const server = yield* EmbeddedServer.start(options({ folder: dataDir }))
          process.kill(server.pid, "SIGKILL")
          yield* Effect.exit(server.ended)
        }).pipe(Effect.scoped)
        const [, ...rest] = Fs.readFileSync(lock, "utf8").split("\n")
        Fs.writeFileSync(lock, [stranger.pid, ...rest].join("\n"))
        assert.deepStrictEqual(yield* Effect.provide(insert(1), embedded({ dataDir })), [1])
      }).pipe(Effect.scoped)
  )

  it.live("without unix sockets, listens on loopback and asks for a password", () =>
    Effect.gen(function* () {
      const dataDir = Path.join(yield* temporaryFolder, "data")
      for (const n of [1, 2]) {
        yield* Effect.gen(function* () {
          const server = yield* EmbeddedServer.start(options({ folder: dataDir, windows: true }))
          const url = new URL(server.url("postgres"))
          assert.strictEqual(url.hostname, "127.0.0.1")
          const query = (url: URL) =>
            Effect.flatMap(Postgres.connect(Redacted.make(url.href)), (client) =>
              Effect.provideService(insert(n), SqlClient.SqlClient, client)
            ).pipe(Effect.scoped, Effect.provide(Reactivity.layer))
          assert.lengthOf(yield* query(url), n)
          url.password = "guessed"
          const error = yield* Effect.flip(query(url))
          assert.strictEqual(error.reason._tag, "AuthenticationError")
        }).pipe(Effect.scoped)
      }
      assert.isFalse(Fs.existsSync(Path.join(dataDir, "postmaster.pid")))
    }).pipe(Effect.scoped)
  )
})

const options = (options: Partial<EmbeddedServer.Options>): EmbeddedServer.Options => ({
  folder: undefined,
  binaries: undefined,
  settings: {},
  windows: false,
  ...options
})
