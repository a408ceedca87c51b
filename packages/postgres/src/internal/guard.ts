/**
 * Runs a PostgreSQL server that cannot outlive this process.
 *
 * The server's parent is a small guard, which reads from a pipe that only this process holds open. When the pipe
 * closes, because the scope closed or because the process is gone in whatever way (even `kill -9`), the guard stops
 * the server and removes the folder of a throw-away cluster.
 */
import { Deferred, Effect, Exit, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { Socket } from "node:net"
import * as Path from "node:path"
import { StartFailed } from "../PostgresError.ts"
import type { Account } from "./account.ts"

/** What to run. The cluster is created first when `create` is given. */
export interface Options {
  readonly initdb: string
  readonly create:
    | {
        /** The folder that `initdb` fills, and the arguments that it gets beside. */
        readonly folder: string
        readonly flags: ReadonlyArray<string>
        /** The path of that folder until it is complete; what is still there in the end is removed. */
        readonly partial: string
      }
    | undefined
  readonly postgres: string
  readonly arguments: ReadonlyArray<string>
  /** How the server stops: `fast` writes everything down first; `immediate` is for data that nobody needs. */
  readonly stop: "fast" | "immediate"
  /** The working folder; the guard creates it, and removes it when the server has ended. */
  readonly run: string
  readonly account: Account
  readonly environment: Readonly<Record<string, string | undefined>>
  /** An open folder that the server reaches as `/proc/self/fd/3`. */
  readonly inherit: number | undefined
  /** Where the guard of platforms without a shell looks for `pg_ctl`, and the cluster that it stops. */
  readonly control: { readonly pgCtl: string; readonly folder: string } | undefined
}

export interface Guarded {
  /** The cluster exists; the server starts after `proceed`. */
  readonly created: Effect.Effect<void, StartFailed>
  readonly proceed: Effect.Effect<void>
  /** Process id of the server. */
  readonly pid: Effect.Effect<number, StartFailed>
  /** How the server ended, with its last log lines. */
  readonly ended: Effect.Effect<string>
  /** The server runs: it does not keep this process alive by itself, and an error carries what it logs from now on. */
  readonly started: Effect.Effect<void>
}

/** Starts the guard. Closing the scope stops the server and waits until it is gone. */
export const run = (options: Options): Effect.Effect<Guarded, StartFailed, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.try({
        try: () => new Guard(options),
        catch: (cause) => new StartFailed({ problem: String(cause), cause })
      }),
      (guard) => guard.stop
    ),
    (guard) => ({
      created: Deferred.await(guard.created),
      proceed: Effect.sync(() => guard.child.stdin?.write("\n")),
      pid: Deferred.await(guard.pid),
      ended: Deferred.await(guard.ended),
      started: guard.started
    })
  )

/** Where the guard finds the password to give to `initdb`, as the file `password` in its working folder. */
export const passwordVariable = "COPPICE_PASSWORD"

/**
 * The guard for unix. Its pipe moves from stdin to fd 4 (3 may be an inherited folder) and is closed for the server.
 * It says `created` and waits for a line before it starts the server, then says the server's process id. It repeats the
 * signal, because a program that has just started does not listen yet, and after four seconds leaves the rest of a
 * shutdown to the recovery of the next start. Nobody may be there to hear what it says. Signals to a whole service are
 * not for the guard, which ends with the server.
 */
const shell = `
exec 4<&0 </dev/null
signal=$1 run=$2 partial=$3 initdb=$4 folder=$5 flags=$6
shift 6
trap "" PIPE TERM HUP
mkdir -m 700 "$run" || exit 1
insist() {
  left=40
  while kill -s "$signal" $pid; do
    sleep 0.1 || sleep 1
    left=$((left - 1))
    [ $left -gt 0 ] || signal=QUIT
  done
}
guard() {
  "$@" 4<&- >/dev/null & pid=$!
  [ -z "$say" ] || echo $pid
  { read -r line <&4; insist; } >/dev/null 2>&1 & watch=$!
  wait $pid; code=$?
  kill -9 $watch 2>/dev/null
}
finish() {
  rm -rf "$run" "$partial" 2>/dev/null
  exit $1
}
if [ -n "$folder" ]; then
  guard "$initdb" -D "$folder" $flags
  [ $code = 0 ] || finish $code
  echo created
  read -r line <&4 || finish 1
fi
say=1
guard "$@"
finish $code`

/** The same for Windows, where node is the only interpreter to count on, and `pg_ctl` the only polite way to stop. */
const script = `
const { spawn } = require("node:child_process")
const fs = require("node:fs")
const [mode, run, partial, initdb, folder, flags, pgCtl, data, ...server] = process.argv.slice(1)
fs.mkdirSync(run, { mode: 0o700 })
const password = process.env.${passwordVariable}
if (password) fs.writeFileSync(run + "/password", password, { mode: 0o600 })
delete process.env.${passwordVariable}
const finish = (code) => {
  const options = { recursive: true, force: true, maxRetries: 20 }
  try { for (const path of [run, partial]) if (path) fs.rmSync(path, options) } catch {}
  process.exit(code ?? 1)
}
const guard = (command, args, stop) => {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"], windowsHide: true })
  process.stdin.once("close", () => stop(child))
  child.once("error", (error) => { console.error(error.message); finish(1) })
  return child
}
const start = () => {
  const stop = () => spawn(pgCtl, ["stop", "-W", "-D", data, "-m", mode], { stdio: "ignore", windowsHide: true })
  const insist = () => { stop(); setInterval(stop, 500) }
  const child = guard(server[0], server.slice(1), insist).once("exit", finish)
  console.log(String(child.pid))
}
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {})
process.stdin.resume()
if (!folder) start()
else guard(initdb, ["-D", folder, ...flags.split(" ")], (child) => child.kill()).once("exit", (code) => {
  if (code !== 0) finish(code)
  process.stdin.once("data", start)
  console.log("created")
})`

/** How many characters of the server's log an error carries. */
const logTail = 2000

/** How long to wait for the log's last lines when processes of the server, which has ended, still hold it open. */
const logGrace = "250 millis"

class Guard {
  readonly child: ChildProcess
  readonly created = Deferred.makeUnsafe<void, StartFailed>()
  readonly pid = Deferred.makeUnsafe<number, StartFailed>()
  readonly ended = Deferred.makeUnsafe<string>()
  log = ""

  constructor(options: Options) {
    const { control, create } = options
    const flags = create === undefined ? "" : create.flags.join(" ")
    const cluster = [options.run, create?.partial ?? "", options.initdb, create?.folder ?? "", flags]
    const server = [options.postgres, ...options.arguments]
    const [command, ...rest] =
      control === undefined
        ? ["/bin/sh", "-c", shell, "guard", options.stop === "fast" ? "INT" : "QUIT", ...cluster, ...server]
        : [process.execPath, "-e", script, options.stop, ...cluster, control.pgCtl, control.folder, ...server]
    this.child = spawn(command, rest, {
      ...options.account,
      cwd: Path.dirname(options.run),
      env: { ...options.environment },
      // Its own process group: Ctrl-C is for this process, which still needs its database to finish.
      detached: true,
      windowsHide: true,
      stdio: ["pipe", "pipe", "pipe", options.inherit ?? "ignore"]
    })
    this.listen()
  }

  /** Closes the pipe and waits until the guard, and with it the server, is gone. */
  readonly stop = Effect.suspend(() => {
    this.child.ref()
    this.child.stdin?.end()
    return Deferred.await(this.ended)
  })

  readonly started = Effect.sync(() => {
    this.log = ""
    this.child.unref()
    for (const stream of [this.child.stdin, this.child.stdout, this.child.stderr]) {
      if (stream instanceof Socket) stream.unref()
    }
  })

  private listen(): void {
    const { child } = this
    // The guard may be gone before we write to it; its exit says so.
    child.stdin?.on("error", () => {})
    child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
      this.log = (this.log + chunk).slice(-logTail)
    })
    let line = ""
    child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      line += chunk
      const lines = line.split(/\r?\n/)
      line = lines.pop() ?? ""
      for (const said of lines) {
        if (said === "created") Deferred.doneUnsafe(this.created, Exit.void)
        else if (/^\d+$/.test(said)) Deferred.doneUnsafe(this.pid, Exit.succeed(Number(said)))
      }
    })
    child.once("error", (cause) => this.finish(`cannot run: ${cause.message}`))
    child.once("exit", (code, signal) => {
      const finish = Effect.sync(() => this.finish(signal === null ? `exit code ${code}` : `signal ${signal}`))
      child.once("close", () => Effect.runSync(finish))
      Effect.runFork(Effect.delay(finish, logGrace))
    })
  }

  private finish(how: string): void {
    const problem = this.log.trim() === "" ? how : `${how}\n${this.log.trim()}`
    const failure = Exit.fail(new StartFailed({ problem }))
    Deferred.doneUnsafe(this.created, failure)
    Deferred.doneUnsafe(this.pid, failure)
    Deferred.doneUnsafe(this.ended, Exit.succeed(problem))
  }
}
