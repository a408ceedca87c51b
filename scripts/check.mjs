// Runs the checks of the workspace: all of them, or those named on the command line (`npm run check -- types lint`).
// One line per check with its time; the output of a check is shown when it fails. Exits with 1 when any failed.
import { spawn, spawnSync } from "node:child_process"
import { existsSync, readdirSync } from "node:fs"
import { delimiter, join } from "node:path"
import { fileURLToPath } from "node:url"
import { isTooOld } from "./node-version.mjs"
import { pinnedNode, setup } from "./setup.mjs"

const root = fileURLToPath(new URL("..", import.meta.url))

const projects = () =>
  ["packages", "examples"]
    .flatMap((folder) => readdirSync(join(root, folder)).map((name) => `${folder}/${name}/tsconfig.json`))
    .filter((file) => existsSync(join(root, file)))

const effectDiagnostics = (project) => ["effect-tsgo", "diagnostics", "--project", join(root, project), "--strict"]

/** What each check runs, one command after the other. */
export const checks = {
  types: () => [
    ["tsc", "-b"],
    ["node", "scripts/check-type-errors.mjs"]
  ],
  lint: () => [["oxlint", "--deny-warnings", "--report-unused-disable-directives"]],
  format: () => [["oxfmt", "--check"]],
  effect: () => [...projects(), "tsconfig.tests.json"].map(effectDiagnostics),
  unused: () => [["knip"]],
  arrows: () => [["node", "scripts/check-arrows.mjs"]],
  docs: () => [["node", "scripts/check-docs.mjs"]],
  packages: () => [["node", "scripts/check-packages.mjs"]],
  tests: () => [["vitest", "run", "--config", "vitest.workspace.ts"]]
}

const main = async (names) => {
  const unknown = names.filter((name) => !(name in checks))
  if (unknown.length > 0) {
    console.error(`coppice: no check is called ${unknown.join(", ")}; there are ${Object.keys(checks).join(", ")}.`)
    return 1
  }
  const failed = []
  for (const name of names.length > 0 ? names : Object.keys(checks)) {
    const started = performance.now()
    const failure = await firstFailure(checks[name]())
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    console.log(`${failure === undefined ? "ok    " : "FAILED"} ${name.padEnd(10)} ${seconds.padStart(6)} s`)
    if (failure !== undefined) {
      failed.push(name)
      console.log(failure.trimEnd().replace(/^/gm, "       "))
    }
  }
  if (failed.length > 0) console.log(`\n${failed.length} failed: ${failed.join(", ")}`)
  return failed.length > 0 ? 1 : 0
}

const firstFailure = async (commands) => {
  for (const command of commands) {
    const { code, output } = await run(command)
    if (code !== 0) return `$ ${command.join(" ")}\n${output}`
  }
  return undefined
}

const run = ([command, ...args]) =>
  new Promise((settle, reject) => {
    const path = join(root, "node_modules", ".bin") + delimiter + process.env.PATH
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, PATH: path },
      shell: process.platform === "win32",
      stdio: ["ignore", "pipe", "pipe"]
    })
    let output = ""
    child.stdout.on("data", (chunk) => (output += chunk))
    child.stderr.on("data", (chunk) => (output += chunk))
    child.on("error", reject)
    child.on("close", (code) => settle({ code, output }))
  })

setup()
if (isTooOld(process.version)) {
  const { status } = spawnSync(pinnedNode, process.argv.slice(1), { stdio: "inherit" })
  process.exit(status ?? 1)
}
process.exit(await main(process.argv.slice(2)))
