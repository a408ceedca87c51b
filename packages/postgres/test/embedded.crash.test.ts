import { assert, describe, it } from "@effect/vitest"
import { Postgres, PostgresError } from "@coppice/postgres"
import { ConfigProvider, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { eventually, isAlive, type Program, runFixture, runFolders, temporaryFolder } from "./fixtures/machine.ts"

const embedded = (dataDir: string) =>
  Layer.provide(Postgres.layerWith({ dataDir }), ConfigProvider.layer(ConfigProvider.fromUnknown({})))

const acknowledged = (program: Program) => program.lines.filter((line) => line.startsWith("acknowledged ")).length

const serverOf = (dataDir: string) =>
  Number(Fs.readFileSync(Path.join(dataDir, "postmaster.pid"), "utf8").split("\n")[0])

const rows = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const [row] = yield* sql<{ readonly count: number }>`select count(*)::int4 as count from rows`
  return row?.count ?? 0
})

describe("when the process is killed", () => {
  it.live("the server ends by itself, and every acknowledged row is there after a restart", () =>
    Effect.gen(function* () {
      const dataDir = Path.join(yield* temporaryFolder, "data")
      let expected = 0
      for (let round = 0; round < 3; round++) {
        const program = yield* runFixture("owner.ts", [dataDir])
        yield* eventually(() => acknowledged(program) >= 50)
        const server = serverOf(dataDir)
        yield* program.kill
        // In the last round a new owner comes at once, and waits for the old server to end.
        if (round < 2) yield* eventually(() => !isAlive(server))
        expected += acknowledged(program)
        const found = yield* Effect.provide(rows, embedded(dataDir), { local: true })
        // The last commit may have happened without anybody hearing of it.
        assert.oneOf(found, [expected, expected + 1])
        expected = found
      }
      yield* eventually(() => runFolders().length === 0)
    }).pipe(Effect.scoped)
  )

  it.live("a throw-away server takes its data along", () =>
    Effect.gen(function* () {
      const program = yield* runFixture("owner.ts")
      yield* eventually(() => acknowledged(program) >= 1)
      assert.lengthOf(runFolders(), 1)
      yield* program.kill
      yield* eventually(() => runFolders().length === 0)
    }).pipe(Effect.scoped)
  )

  it.live("a server that is just being created leaves nothing behind", () =>
    Effect.gen(function* () {
      const parent = yield* temporaryFolder
      const dataDir = Path.join(parent, "data")
      for (const moment of [() => Fs.readdirSync(parent).length > 0, () => runFolders().length > 0]) {
        const program = yield* runFixture("owner.ts", [dataDir])
        yield* eventually(moment)
        yield* program.kill
        yield* eventually(() => runFolders().length === 0)
        assert.isFalse(Fs.existsSync(dataDir))
      }
      // The next start removes what only its owner may remove.
      const program = yield* runFixture("owner.ts", [dataDir])
      yield* eventually(() => acknowledged(program) >= 1)
      assert.deepStrictEqual(Fs.readdirSync(parent), ["data"])
    }).pipe(Effect.scoped)
  )
})

describe("a data folder with a living owner", () => {
  it.live("is refused at once, with the owner's process id and what to do", () =>
    Effect.gen(function* () {
      const dataDir = Path.join(yield* temporaryFolder, "data")
      const owner = yield* runFixture("owner.ts", [dataDir])
      yield* eventually(() => acknowledged(owner) >= 1)
      const { reason } = yield* Effect.flip(Effect.provide(rows, embedded(dataDir))).pipe(
        Effect.filterOrFail((error) => error._tag === "PostgresUnavailable")
      )
      assert.instanceOf(reason, PostgresError.FolderInUse)
      assert.strictEqual(reason.owner, owner.child.pid)
      assert.strictEqual(reason.server, serverOf(dataDir))
      assert.include(reason.message, "share one server between programs with DATABASE_URL=postgres://")
      const count = acknowledged(owner)
      yield* eventually(() => acknowledged(owner) > count)
    }).pipe(Effect.scoped)
  )
})
