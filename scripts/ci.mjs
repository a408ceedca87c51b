// Runs `npm test` and every other check, and ends with the line `N passed, N failed`, which counts each test and each
// check. Exits with 1 when anything failed.
import "./on-pinned-node.mjs"
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { checks, runChecks } from "./checks.mjs"
import { countTests } from "./test-report.mjs"
import { workspaceRoot } from "./tsc.mjs"

const testAndCount = () => {
  const folder = mkdtempSync(join(tmpdir(), "coppice-ci-"))
  try {
    const file = join(folder, "tests.json")
    const { status } = spawnSync(
      "npm",
      ["test", "--", "--reporter=default", "--reporter=json", `--outputFile.json=${file}`],
      {
        cwd: workspaceRoot,
        stdio: ["ignore", "inherit", "inherit"],
        shell: process.platform === "win32"
      }
    )
    return existsSync(file) ? countTests(JSON.parse(readFileSync(file, "utf8")), status) : { passed: 0, failed: 1 }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const tests = testAndCount()
const names = Object.keys(checks).filter((name) => name !== "tests")
const failedChecks = await runChecks(names)
const failed = tests.failed + failedChecks.length

console.log(`${tests.passed + names.length - failedChecks.length} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
