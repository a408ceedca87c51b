import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Settings from "../src/Settings.ts"

const parse = (args: ReadonlyArray<string>, env = {}) => Settings.parse(args, env, "/data")
const problemOf = (args: ReadonlyArray<string>, env = {}) =>
  Effect.map(Effect.flip(parse(args, env)), ({ message }) => message)

describe("Settings", () => {
  it.effect("listens on this machine only, on port 4000, when nothing is said", () =>
    Effect.gen(function* () {
      const defaults = {
        host: "127.0.0.1",
        port: 4000,
        data: "/data",
        share: false,
        capturesPerMinute: 60,
        worker: false,
        allowPrivateAddresses: false,
        timeZone: "UTC",
        jobLeaseSeconds: 30
      }
      assert.deepStrictEqual(yield* parse([]), defaults)
      assert.deepStrictEqual(yield* parse([], { PORT: "" }), defaults)
      assert.deepStrictEqual(yield* parse([], { PORT: "81" }), { ...defaults, port: 81 })
      assert.deepStrictEqual(yield* parse(["--port=82", "--host", "::1", "--data", "x"], { PORT: "81" }), {
        ...defaults,
        port: 82,
        host: "::1",
        data: "x"
      })
      assert.strictEqual(yield* parse(["--help"]), "help")
      const worker = ["--worker", "--allow-private-addresses", "--time-zone", "Europe/Berlin", "--job-lease", "2"]
      assert.deepStrictEqual(yield* parse(worker, { DATABASE_URL: "postgres://host/db" }), {
        ...defaults,
        worker: true,
        allowPrivateAddresses: true,
        timeZone: "Europe/Berlin",
        jobLeaseSeconds: 2
      })
    })
  )

  it.effect("answers every mistake with one line that says what to do", () =>
    Effect.gen(function* () {
      for (const [args, env] of [
        [["--port", "70000"], {}],
        [["--port", "http"], {}],
        [["--port", "-1"], {}],
        [["--port"], {}],
        [["--prot", "4001"], {}],
        [["4001"], {}],
        [["--host", ""], {}],
        [["--data="], {}],
        [["--captures-per-minute", "0"], {}],
        [["--worker=yes"], {}],
        [["--worker"], {}],
        [["--worker"], { DATABASE_URL: "" }],
        [["--time-zone", "Middle Earth"], {}],
        [["--time-zone", ""], {}],
        [["--job-lease", "0"], {}],
        [[], { PORT: "x" }]
      ] as const) {
        const problem = yield* problemOf(args, env)
        assert.match(problem, /^[^\n]+\. Run with --help to see what can be set\.$/, args.join(" "))
        assert.notInclude(problem, "..")
      }
      assert.include(yield* problemOf(["--port", "70000"]), `--port must be a number from 0 to 65535, but is "70000"`)
      assert.include(yield* problemOf([], { PORT: "x" }), "PORT")
    })
  )
})
