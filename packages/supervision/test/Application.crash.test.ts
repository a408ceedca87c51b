import { assert, describe, it } from "@effect/vitest"
import { type ChildProcessByStdio, spawn } from "node:child_process"
import { once } from "node:events"
import type { Readable } from "node:stream"
import { fileURLToPath } from "node:url"

const program = fileURLToPath(new URL("./fixtures/application.ts", import.meta.url))

interface Ended {
  readonly code: number | null
  readonly output: string
  /** What the children said, without the log. */
  readonly said: ReadonlyArray<string>
}

/** Runs the program, sends it each signal once the given text has been printed, and waits for its end. */
const run = async (
  mode: string,
  signals: ReadonlyArray<{ readonly after: string; readonly signal: NodeJS.Signals; readonly delay?: number }> = [],
  onSignal: (child: ChildProcessByStdio<null, Readable, Readable>) => void = () => {}
): Promise<Ended> => {
  const child = spawn(process.execPath, ["--conditions=@coppice/source", program, mode], {
    stdio: ["ignore", "pipe", "pipe"]
  })
  let output = ""
  let next = 0
  const onData = (data: Buffer) => {
    output += data.toString()
    const signal = signals[next]
    if (signal !== undefined && output.includes(signal.after)) {
      next++
      // The program's idea of one key press is measured in real time.
      setTimeout(() => {
        onSignal(child)
        child.kill(signal.signal)
      }, signal.delay ?? 0)
    }
  }
  child.stdout.on("data", onData)
  child.stderr.on("data", onData)
  // A stream that is not read does not close.
  child.on("exit", () => child.stdout.resume())
  const [code] = (await once(child, "close")) as [number | null]
  const said = output.split("\n").filter((line) => /^(start|stopping|stopped) /.test(line))
  return { code, output, said }
}

const started = ["start a", "start b", "start c"]
const stoppedInOrder = ["stopping c", "stopped c", "stopping b", "stopped b", "stopping a", "stopped a"]

describe.concurrent("Application", () => {
  it("stops its children in reverse order on SIGTERM and exits with 0", async () => {
    const { code, output, said } = await run("", [{ after: "application started", signal: "SIGTERM" }])
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.include(output, "└─ d  running")
    assert.strictEqual(code, 0)
  })

  it("does the same on SIGINT", async () => {
    const { code, said } = await run("", [{ after: "application started", signal: "SIGINT" }])
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.strictEqual(code, 0)
  })

  it("exits with 1 when the root supervisor gives up, after stopping its children in order", async () => {
    const { code, output, said } = await run("give-up")
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.include(output, "App gave up: App/d exceeded 1 restarts within 5000 ms; the last end was: Error: boom")
    assert.strictEqual(code, 1)
  })

  it("exits with 1 when a child fails its first start, after rolling back in reverse", async () => {
    const { code, output, said } = await run("start-failure")
    assert.deepStrictEqual(said, ["start a", "start b", "stopping b", "stopped b", "stopping a", "stopped a"])
    assert.include(output, "App/c failed to start: Error: no way")
    assert.strictEqual(code, 1)
  })

  it("takes a Ctrl-C that arrives twice, from the terminal and from npm, for one", async () => {
    const { code, said } = await run("slow", [
      { after: "application started", signal: "SIGINT" },
      { after: "stopping b", signal: "SIGINT" }
    ])
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.strictEqual(code, 0)
  })

  it("ends at once on a second signal", async () => {
    const { code, said } = await run("stuck-long", [
      { after: "application started", signal: "SIGTERM" },
      { after: "stopping b", signal: "SIGTERM", delay: 600 }
    ])
    assert.strictEqual(code, 143)
    assert.notInclude(said, "stopped b")
  })

  it("exits with 124 when the stop takes longer than the shutdown timeout", async () => {
    const { code, output } = await run("stuck", [{ after: "application started", signal: "SIGTERM" }])
    assert.include(output, "the application did not stop within 300 ms")
    assert.strictEqual(code, 124)
  })

  it("stops in order and exits with 1 after an exception outside every fiber", async () => {
    const { code, output, said } = await run("escape")
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.include(output, "escaped")
    assert.strictEqual(code, 1)
  })

  it("stops in order and exits with 1 after an unhandled rejection", async () => {
    const { code, said } = await run("reject")
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.strictEqual(code, 1)
  })

  it("exits with 1 also when a signal comes while the root that gave up stops, and says why it ended", async () => {
    const { code, output, said } = await run("give-up-slow", [{ after: "stopping b", signal: "SIGTERM" }])
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.match(output, /FATAL.*application ended[^]*App gave up/)
    assert.strictEqual(code, 1)
  })

  it("takes the first signal after an escaped exception for a first one", async () => {
    const { code, said } = await run("escape-slow", [{ after: "stopping b", signal: "SIGTERM" }])
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.strictEqual(code, 1)
  })

  it("loses nothing of what it wrote where the reader is slow", async () => {
    const { code, output } = await run("chatty", [{ after: "application started", signal: "SIGTERM" }], (child) => {
      // What is not read for a while is more than a pipe holds.
      child.stdout.pause()
      setTimeout(() => child.stdout.resume(), 100)
    })
    assert.strictEqual(output.split("\n").filter((line) => line.startsWith("line ")).length, 10_000)
    assert.include(output, "application stopped")
    assert.strictEqual(code, 0)
  })

  it("ends although nobody reads what it writes", async () => {
    const [stalled, gone] = await Promise.all([
      run("chatty", [{ after: "application started", signal: "SIGTERM" }], (child) => child.stdout.pause()),
      run("chatty", [{ after: "application started", signal: "SIGTERM" }], (child) => child.stdout.destroy())
    ])
    assert.strictEqual(stalled.code, 0)
    assert.strictEqual(gone.code, 0)
  })

  it("runs under NodeRuntime: launch stops in order when it is interrupted", async () => {
    const { code, said } = await run("node-runtime", [{ after: "application started", signal: "SIGINT" }])
    assert.deepStrictEqual(said, [...started, ...stoppedInOrder])
    assert.strictEqual(code, 130)
  })
})
