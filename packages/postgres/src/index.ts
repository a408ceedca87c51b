/** One layer for the database of an application, and others for its tests. */
export * as Pglite from "./Pglite.ts"
export * as Postgres from "./Postgres.ts"
export * as PostgresError from "./PostgresError.ts"
export * as Sandbox from "./Sandbox.ts"
