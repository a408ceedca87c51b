/**
 * The server of a test run: started once by the global setup, and found by the test files through the environment,
 * which every worker of the run inherits.
 */
import { Config, Effect, Option, Schema } from "effect"
import { TestServerMissing } from "../PostgresError.ts"

/** What the global setup tells the test files. */
export interface TestServer {
  /** A database from which others can be created. */
  readonly url: string
  /** How the names of all databases of this run begin. */
  readonly prefix: string
}

/** The environment variable that carries it. */
export const variable = "COPPICE_TEST_SERVER"

/** What the variable says: where the server is, or why there is none. */
export const Variable = Schema.fromJsonString(
  Schema.Union([
    Schema.Struct({ url: Schema.String, prefix: Schema.String }),
    Schema.Struct({ problem: Schema.String })
  ])
)

/** The server of this run. */
export const find: Effect.Effect<TestServer, TestServerMissing> = Effect.gen(function* () {
  const found = yield* Config.option(Config.schema(Variable, variable)).pipe(
    Effect.mapError((error) => new TestServerMissing({ problem: error.message }))
  )
  if (Option.isNone(found)) return yield* new TestServerMissing({ problem: "its global setup did not run" })
  if ("problem" in found.value) return yield* new TestServerMissing(found.value)
  return found.value
})
