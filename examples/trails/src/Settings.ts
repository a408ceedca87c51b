/** What can be said on the command line, and what holds when nothing is said. */
import { DateTime, Effect, Option, Schema } from "effect"
import { parseArgs } from "node:util"

export interface Settings {
  readonly host: string
  readonly port: number
  readonly data: string
  /** Says how other processes can share the embedded database. */
  readonly share: boolean
  readonly capturesPerMinute: number
  /** Runs jobs and nothing else: no web server. */
  readonly worker: boolean
  /** Whether pages of private networks, and of this machine, may be fetched. */
  readonly allowPrivateAddresses: boolean
  /** In which a day ends, for the nightly digest. */
  readonly timeZone: string
  /** How long this process may be silent until others take over the jobs it was running. */
  readonly jobLeaseSeconds: number
}

/** The command line asks for the impossible. */
export class InvalidSettings extends Schema.TaggedError<InvalidSettings>()("InvalidSettings", {
  problem: Schema.String
}) {
  override get message(): string {
    return `${this.problem}. Run with --help to see what can be set.`
  }
}

export const usage = `Trails: keeps web pages together, under supervision.

  --host <address>              where to listen (default 127.0.0.1, this machine only)
  --port <number>               default 4000, or the environment variable PORT; 0 takes a free one
  --data <folder>               where the embedded database keeps its data (default .data);
                                unused when the environment variable DATABASE_URL names a server
  --share                       says what DATABASE_URL is of the embedded database, for other processes
  --captures-per-minute <n>     how much one user may capture (default 60)
  --worker                      runs jobs and nothing else, beside other processes on one DATABASE_URL
  --allow-private-addresses     fetches pages of private networks and of this machine as well
  --time-zone <name>            in which a day ends, for the nightly digest (default UTC)
  --job-lease <seconds>         how long this process may be silent until others take over its jobs (default 30)
  --help                        prints this
`

/** The settings, or `"help"` when that was asked for. */
export const parse = (
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string | undefined>>,
  defaultData: string
): Effect.Effect<Settings | "help", InvalidSettings> =>
  Effect.gen(function* () {
    const { values } = yield* Effect.try({
      try: () => parseArgs({ args: [...args], options, strict: true, allowPositionals: false }),
      catch: (error) => new InvalidSettings({ problem: firstSentence(error) })
    })
    if (values.help) return "help"
    for (const name of ["host", "data"] as const) {
      if (values[name] === "") return yield* new InvalidSettings({ problem: `--${name} must not be empty` })
    }
    if (values.worker && !env["DATABASE_URL"]) {
      return yield* new InvalidSettings({
        problem: "--worker needs DATABASE_URL, the server that it shares with others"
      })
    }
    return {
      host: values.host ?? "127.0.0.1",
      port: yield* port(values.port, env["PORT"]),
      data: values.data ?? defaultData,
      share: values.share ?? false,
      capturesPerMinute: yield* number("--captures-per-minute", values["captures-per-minute"] ?? "60", 1, 1_000_000),
      worker: values.worker ?? false,
      allowPrivateAddresses: values["allow-private-addresses"] ?? false,
      timeZone: yield* timeZone(values["time-zone"] ?? "UTC"),
      jobLeaseSeconds: yield* number("--job-lease", values["job-lease"] ?? "30", 1, 3600)
    }
  })

const options = {
  host: { type: "string" },
  port: { type: "string" },
  data: { type: "string" },
  share: { type: "boolean" },
  "captures-per-minute": { type: "string" },
  worker: { type: "boolean" },
  "allow-private-addresses": { type: "boolean" },
  "time-zone": { type: "string" },
  "job-lease": { type: "string" },
  help: { type: "boolean" }
} as const

const port = (flag: string | undefined, variable: string | undefined): Effect.Effect<number, InvalidSettings> =>
  flag === undefined && variable ? number("PORT", variable, 0, 65_535) : number("--port", flag ?? "4000", 0, 65_535)

const number = (name: string, text: string, from: number, to: number): Effect.Effect<number, InvalidSettings> =>
  /^\d+$/.test(text) && Number(text) >= from && Number(text) <= to
    ? Effect.succeed(Number(text))
    : Effect.fail(new InvalidSettings({ problem: `${name} must be a number from ${from} to ${to}, but is "${text}"` }))

const timeZone = (name: string): Effect.Effect<string, InvalidSettings> =>
  Option.match(DateTime.zoneMakeNamed(name), {
    onNone: () =>
      new InvalidSettings({ problem: `--time-zone must be a name such as Europe/Berlin, but is "${name}"` }),
    onSome: ({ id }) => Effect.succeed(id)
  })

const firstSentence = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split(/\.(?:\s|$)|\n/)[0] ?? ""
