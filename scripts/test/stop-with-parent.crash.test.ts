import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { once } from "node:events"

const preload = new URL("../stop-with-parent.mjs", import.meta.url).href

const app = `
  process.on("SIGTERM", () => { console.log("asked to stop"); process.exit() })
  console.log("running")
  setInterval(() => {}, 1000)
`

// Stands for npm and the shell it starts scripts with.
const starter = `
  const args = ["--import", ${JSON.stringify(preload)}, "--eval", ${JSON.stringify(app)}]
  require("node:child_process").spawn(process.execPath, args, { stdio: "inherit" })
`

describe.skipIf(process.platform === "win32")("npm start", () => {
  it("asks the app to stop when the process that started it is killed", async () => {
    const parent = spawn(process.execPath, ["--eval", starter], { stdio: ["ignore", "pipe", "inherit"] })
    let output = ""
    parent.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      output += chunk
      if (output === "running\n") parent.kill("SIGKILL")
    })
    // The pipe ends when the app, which inherited it, is gone.
    await once(parent.stdout, "end")
    assert.strictEqual(output, "running\nasked to stop\n")
  })
})
