import { Postgres } from "@coppice/postgres"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Logger } from "effect"
import { Reactivity } from "effect/reactivity"
import * as Pool from "../src/internal/pool.ts"
import { proxy } from "./fixtures/proxy.ts"

/** The queue's own connections by way of a pooler, the starts of its connections, and what was logged. */
const open = Effect.fnUntraced(function* (
  refuse: (startup: string) => readonly [code: string, message: string] | undefined
) {
  const server = yield* Postgres.Server
  const pooler = yield* proxy(server.url())
  const starts: Array<string> = []
  yield* pooler.refuse((startup) => {
    if (startup.includes("coppice jobs")) starts.push(startup)
    return refuse(startup)
  })
  const application = yield* Effect.provide(PgClient.make({ url: pooler.url, maxConnections: 1 }), Reactivity.layer)
  const logged: Array<string> = []
  const logger = Logger.make<unknown, void>(
    ({ logLevel, message }) => void logged.push(`${logLevel} ${String(message)}`)
  )
  const pool = yield* Effect.exit(Effect.provide(Pool.make(application, 2, "coppice jobs"), Logger.layer([logger])))
  return { pool, starts, logged }
})

const settings = (pool: PgClient.PgClient) =>
  Effect.map(
    pool<{ readonly setting: string }>`
      select current_setting(name) as setting from unnest(array['enable_seqscan', 'jit', 'lock_timeout']) name`,
    (rows) => rows.map(({ setting }) => setting)
  )

layer(Postgres.layerTestDatabase(), { excludeTestServices: true })("the queue's own connections", (it) => {
  it.effect("have settings for statements that find their rows by an index, and wait for none of them long", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { logged, pool } = yield* open(() => undefined)
        if (Exit.isFailure(pool)) return assert.fail(String(pool.cause))
        assert.deepStrictEqual(yield* settings(pool.value), ["off", "off", "500ms"])
        assert.deepStrictEqual(logged, [])
      })
    )
  )

  for (const [who, code, message] of [
    ["a pooler", "08P01", "unsupported startup parameter: enable_seqscan"],
    ["a server", "42704", 'unrecognized configuration parameter "enable_seqscan"'],
    ["a pooler with codes of its own", "XX000", "Unsupported startup parameter enable_seqscan"]
  ] as const) {
    it.effect(`do without them where ${who} refuses them, and say so`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { logged, pool } = yield* open((start) => (start.includes("enable_") ? [code, message] : undefined))
          if (Exit.isFailure(pool)) return assert.fail(String(pool.cause))
          assert.deepStrictEqual(yield* settings(pool.value), ["on", "on", "0"])
          assert.lengthOf(logged, 1)
          assert.include(logged[0], `Info The database does not let "coppice jobs" set`)
          assert.include(logged[0], message)
        })
      )
    )
  }

  it.effect("fail with what the server says where it refuses connections for another reason", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { logged, pool, starts } = yield* open((start) =>
          start.includes("coppice jobs") ? ["53300", "sorry, too many clients already"] : undefined
        )
        assert.isTrue(Exit.isFailure(pool))
        const [reason] = Exit.isFailure(pool) ? pool.cause.reasons : []
        assert.isTrue(reason?._tag === "Fail" && String(reason.error.reason.cause).includes("too many clients"))
        assert.isTrue(starts.length > 0 && starts.every((start) => start.includes("enable_seqscan")))
        assert.deepStrictEqual(logged, [])
      })
    )
  )
})
