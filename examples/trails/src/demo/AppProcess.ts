/** The application as a child process: on a port that is free, with its data in a folder that is given. */
import { Deferred, Effect, Schema, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

/** How a process ended: with an exit code, or by a signal. */
interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface AppProcess {
  readonly pid: number
  /** Where it listens, without a slash at the end; nothing for a worker. */
  readonly url: string
  /** All that it has printed. */
  readonly output: () => string
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  readonly ended: Effect.Effect<Ended>
}

/** The process ended before it listened. */
export class DidNotStart extends Schema.TaggedError<DidNotStart>()("DidNotStart", {
  code: Schema.NullOr(Schema.Int),
  output: Schema.String
}) {
  override get message(): string {
    return `The application did not start (exit code ${this.code}):\n${this.output}`
  }
}

const root = fileURLToPath(new URL("../../../..", import.meta.url))

/** Runs the program with arguments, without waiting for anything. When the scope closes, the process is gone. */
export const run = (args: ReadonlyArray<string>, database?: string): Effect.Effect<Running, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const child = yield* Effect.sync(() => launch(args, database))
      const ended = yield* Deferred.make<Ended>()
      child.once("close", (code, signal) => Deferred.doneUnsafe(ended, Effect.succeed({ code, signal })))
      let output = ""
      const listeners = new Set<() => void>()
      for (const stream of [child.stdout, child.stderr]) {
        stream?.setEncoding("utf8").on("data", (chunk: string) => {
          output += chunk
          for (const listener of listeners) listener()
        })
      }
      return { child, output: () => output, listeners, ended: Deferred.await(ended) }
    }),
    ({ child, ended }) =>
      Effect.suspend(() => {
        if (child.exitCode !== null || child.signalCode !== null) return Effect.asVoid(ended)
        child.kill("SIGTERM")
        return Effect.timeoutOrElse(Effect.asVoid(ended), {
          duration: "10 seconds",
          orElse: () =>
            Effect.andThen(
              Effect.sync(() => child.kill("SIGKILL")),
              Effect.asVoid(ended)
            )
        })
      })
  )

export interface Running {
  readonly child: ChildProcess
  readonly output: () => string
  /** Called whenever the process has printed something. */
  readonly listeners: Set<() => void>
  readonly ended: Effect.Effect<Ended>
}

/** Runs the application, with a database of its own, and waits until it listens. */
export const start = (
  data: string,
  args: ReadonlyArray<string> = []
): Effect.Effect<AppProcess, DidNotStart, Scope.Scope> => started(run(["--port", "0", "--data", data, ...args]))

/** Runs the application beside others on a database, and waits until it listens, or as a worker until it works. */
export const startOn = (
  database: string,
  args: ReadonlyArray<string> = []
): Effect.Effect<AppProcess, DidNotStart, Scope.Scope> => started(run(["--port", "0", ...args], database))

/** When the scope closes, the process is gone. */
const started = (
  run: Effect.Effect<Running, never, Scope.Scope>
): Effect.Effect<AppProcess, DidNotStart, Scope.Scope> =>
  Effect.gen(function* () {
    const running = yield* run
    const { child, ended, listeners, output } = running
    const listening = Effect.callback<string>((resume) => {
      const look = () => {
        const url = /Listening on (http:\/\/\S+)/.exec(output())?.[1]
        // Everything is up when the tree has been shown.
        if (output().includes("application started")) resume(Effect.succeed(url ?? ""))
      }
      listeners.add(look)
      look()
      return Effect.sync(() => listeners.delete(look))
    })
    const url = yield* Effect.raceFirst(
      listening,
      Effect.flatMap(ended, ({ code }) => Effect.fail(new DidNotStart({ code, output: output() })))
    )
    return {
      pid: child.pid ?? 0,
      url,
      output,
      signal: (signal) => Effect.sync(() => child.kill(signal)),
      ended
    }
  })

const launch = (args: ReadonlyArray<string>, database: string | undefined): ChildProcess => {
  const env = { ...process.env }
  // A database of its own, or the one that was named, whatever the environment says of others.
  delete env["DATABASE_URL"]
  if (database !== undefined) env["DATABASE_URL"] = database
  delete env["PORT"]
  return spawn(
    process.execPath,
    [
      // Node itself takes the types out of the sources.
      "--conditions=@coppice/source",
      // Should this process be killed, the application follows.
      "--import=./scripts/stop-with-parent.mjs",
      "examples/trails/src/main.ts",
      ...args
    ],
    { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] }
  )
}
