// The checks of the workspace and how they are run.
import { spawn } from "node:child_process"
import { delimiter, join } from "node:path"
import { workspaceRoot } from "./tsc.mjs"

/** @typedef {ReadonlyArray<string>} Command a program of node_modules/.bin and its arguments */

// One project with every source and test, so that each file is looked at once.
const effectProject = join(workspaceRoot, "tsconfig.effect.json")

/**
 * What each check runs.
 *
 * @type {Record<string, ReadonlyArray<Command>>}
 */
export const checks = {
  types: [
    ["tsc", "-b"],
    ["node", "scripts/check-type-errors.mjs"]
  ],
  lint: [["oxlint", "--deny-warnings", "--report-unused-disable-directives"]],
  format: [["oxfmt", "--check"]],
  effect: [
    ["effect-tsgo", "diagnostics", "--strict", "--severity=error,warning", "--format=text", "--project", effectProject]
  ],
  unused: [["knip", "--no-config-hints"]],
  arrows: [["node", "scripts/check-arrows.mjs"]],
  docs: [["node", "scripts/check-docs.mjs"]],
  packages: [["node", "scripts/check-packages.mjs"]],
  tests: [["vitest", "run", "--config", "vitest.workspace.ts"]]
}

/**
 * Runs checks in order. Prints one line for each, with its time, and the output of those that fail.
 *
 * @param {ReadonlyArray<string>} names
 * @returns {Promise<ReadonlyArray<string>>} the names of those that failed
 */
export const runChecks = async (names) => {
  /** @type {Array<string>} */
  const failed = []
  for (const name of names) {
    const started = performance.now()
    const failures = await failuresOf(checks[name] ?? [])
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    console.log(`${failures.length === 0 ? "ok    " : "FAILED"} ${name.padEnd(9)} ${seconds.padStart(6)} s`)
    if (failures.length === 0) continue
    failed.push(name)
    console.log(failures.join("\n").trimEnd().replace(/^/gm, "       "))
  }
  return failed
}

/** @param {ReadonlyArray<Command>} commands */
const failuresOf = async (commands) => {
  /** @type {Array<string>} */
  const failures = []
  for (const command of commands) {
    const { code, output } = await run(command)
    if (code !== 0) failures.push(`$ ${command.join(" ")}\n${output.trimEnd()}\n`)
  }
  return failures
}

/**
 * @param {Command} command
 * @returns {Promise<{ code: number | null, output: string }>}
 */
const run = ([program = "", ...args]) =>
  new Promise((settle, reject) => {
    const { FORCE_COLOR: _, ...environment } = process.env
    const path = join(workspaceRoot, "node_modules", ".bin") + delimiter + process.env["PATH"]
    const child = spawn(program, args, {
      cwd: workspaceRoot,
      env: { ...environment, PATH: path, NO_COLOR: "1" },
      shell: process.platform === "win32",
      stdio: ["ignore", "pipe", "pipe"]
    })
    let output = ""
    child.stdout.on("data", (chunk) => (output += chunk))
    child.stderr.on("data", (chunk) => (output += chunk))
    child.on("error", reject)
    child.on("close", (code) => settle({ code, output }))
  })
