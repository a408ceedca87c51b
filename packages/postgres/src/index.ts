/** One layer for the database of an application, and others for its tests. */
export * as Postgres from "./Postgres.ts"
export * as PostgresError from "./PostgresError.ts"
