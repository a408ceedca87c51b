/** The command line: which suite, measured how, written where. */
import { Console, Effect, Schema } from "effect"
import { open, writeFile } from "node:fs/promises"
import { parseArgs } from "node:util"
import { type Contender, run, Sizes, type Suite } from "./Bench.ts"
import { isolate, sampleName, say } from "./Isolated.ts"
import { rows, table } from "./Report.ts"

/** The command line asks for something that is not there. */
export class UsageError extends Schema.TaggedError<UsageError>()("UsageError", {
  problem: Schema.String,
  suites: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return [
      this.problem,
      "usage: npm run bench -- <suite> [--case <part of a name>] [--rounds <number>] [--set <size>=<number>] [--json <file>]",
      `suites: ${this.suites.join(", ")}`
    ].join("\n")
  }
}

export type Command =
  | { readonly _tag: "Run"; readonly suite: Suite; readonly json: string | undefined }
  | { readonly _tag: "Sample"; readonly suite: Suite; readonly contender: Contender }

/** Reads the arguments that follow the script's name. */
export const parse = (args: ReadonlyArray<string>, suites: ReadonlyArray<Suite>): Effect.Effect<Command, UsageError> =>
  Effect.gen(function* () {
    const names = suites.map((suite) => suite.name)
    const refuse = (problem: string) => new UsageError({ problem, suites: names })
    const { positionals, values } = yield* Effect.try({
      try: () => parseArgs({ args: [...args], allowPositionals: true, options }),
      catch: (error) => refuse(error instanceof Error ? error.message : String(error))
    })
    const [name, ...rest] = positionals
    if (name === undefined) return yield* refuse("which suite is to be measured?")
    if (rest.length > 0) return yield* refuse(`one suite at a time, and ${rest.join(" ")} came after ${name}`)
    const found = suites.find((suite) => suite.name === name)
    if (found === undefined) return yield* refuse(`there is no suite "${name}"`)
    const sizes = { ...found.sizes }
    for (const text of values.set ?? []) {
      const [, size = "", number] = /^(.+)=(\d+)$/.exec(text) ?? []
      if (!Object.hasOwn(sizes, size) || !Number.isSafeInteger(Number(number)))
        return yield* refuse(`--set takes <size>=<whole number>, not "${text}"; sizes: ${told(sizes) || "none"}`)
      sizes[size] = Number(number)
    }
    const suite = { ...found, sizes }

    if (values.sample !== undefined) {
      const contender = suite.cases
        .flatMap((entry) => [entry.subject, ...entry.baselines].map((contender) => ({ entry, contender })))
        .find(({ contender, entry }) => sampleName(entry, contender) === values.sample)?.contender
      return contender === undefined
        ? yield* refuse(`${name} has no sample "${values.sample}"`)
        : { _tag: "Sample", suite, contender }
    }

    const rounds = values.rounds === undefined ? suite.rounds : Number(values.rounds)
    if (!Number.isSafeInteger(rounds) || rounds < 1)
      return yield* refuse(`--rounds is a whole number from 1 up, not "${values.rounds}"`)
    const cases = suite.cases
      .filter((entry) => entry.name.includes(values.case ?? ""))
      .map((entry) => (values.rounds === undefined ? entry : { ...entry, rounds }))
    if (cases.length === 0) return yield* refuse(`${name} has no case with "${values.case}" in its name`)
    if (values.json !== undefined) yield* writable(values.json, refuse)
    return { _tag: "Run", suite: { ...suite, rounds, cases }, json: values.json }
  })

/** Does what the arguments say; `main` is the script that runs again for isolated samples. Succeeds with the exit code. */
export const execute = (
  main: string,
  args: ReadonlyArray<string>,
  suites: ReadonlyArray<Suite>
): Effect.Effect<number> =>
  Effect.gen(function* () {
    const command = yield* parse(args, suites)
    const { suite } = command
    const shared = yield* suite.shared ?? Effect.succeed({})
    if (command._tag === "Sample") {
      Object.assign(process.env, shared)
      yield* Console.log(say(yield* Effect.provideService(command.contender.sample, Sizes, suite.sizes ?? {})))
      return 0
    }
    const { json } = command
    const measured = yield* Effect.provideService(
      run(suite, isolate(main, suite, shared), ({ name }) => Console.error(`measuring ${name}`)),
      Sizes,
      suite.sizes ?? {}
    )
    const sizes = told(suite.sizes ?? {})
    yield* Console.log(
      [
        `\n${suite.name}: median of ${suite.rounds} rounds, Node ${process.versions.node}${sizes && `, ${sizes}`}`,
        table(measured),
        ...(suite.notes ?? [])
      ].join("\n\n")
    )
    if (json !== undefined)
      yield* Effect.promise(() => writeFile(json, `${JSON.stringify(rows(suite.name, measured), null, 2)}\n`))
    return 0
  }).pipe(
    Effect.scoped,
    Effect.catchTags({
      UsageError: (error) => Effect.as(Console.error(error.message), 2),
      SuiteUnavailable: (error) => Effect.as(Console.error(error.message), 1),
      IsolatedSampleFailed: (error) => Effect.as(Console.error(error.message), 1)
    })
  )

const told = (sizes: Readonly<Record<string, number>>): string =>
  Object.entries(sizes)
    .map(([name, value]) => `${name}=${value}`)
    .join(" ")

const options = {
  case: { type: "string" },
  json: { type: "string" },
  rounds: { type: "string" },
  set: { type: "string", multiple: true },
  // How an isolated sample is asked for; not for people.
  sample: { type: "string" }
} as const

// Minutes of measuring are not to end in a file that cannot be written; opening for append leaves one that is there alone.
const writable = (file: string, refuse: (problem: string) => UsageError) =>
  Effect.tryPromise({
    try: async () => (await open(file, "a")).close(),
    catch: (error) => refuse(`--json: ${error instanceof Error ? error.message : String(error)}`)
  })
