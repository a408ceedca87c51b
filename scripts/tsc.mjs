// Type-checks a list of files with the strict options of tsconfig.base.json and returns the errors as values.
import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { fileURLToPath } from "node:url"

/**
 * One error of the compiler; `message` is the whole chain, one line per link.
 *
 * @typedef {{ file: string, line: number, column: number, code: string, message: string }} CompileError
 */

/** The folder that holds package.json. */
export const workspaceRoot = fileURLToPath(new URL("..", import.meta.url))

// Short programs rarely use all that they declare, and nothing is emitted.
const options = {
  noEmit: true,
  rewriteRelativeImportExtensions: false,
  allowImportingTsExtensions: true,
  composite: false,
  incremental: false,
  declarationMap: false,
  rootDir: null,
  outDir: null,
  tsBuildInfoFile: null,
  noUnusedLocals: false,
  noUnusedParameters: false
}

/**
 * Compiles files, given as absolute paths, in one run of the compiler.
 *
 * @param {ReadonlyArray<string>} files
 * @returns {Array<CompileError>}
 */
export const typeCheck = (files) => {
  if (files.length === 0) return []
  const cache = join(workspaceRoot, "node_modules", ".cache", "coppice")
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(join(cache, "tsc-"))
  try {
    const config = { extends: join(workspaceRoot, "tsconfig.base.json"), compilerOptions: options, files }
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config))
    const compiler = join(workspaceRoot, "node_modules", "typescript", "bin", "tsc")
    const { error, status, stdout, stderr } = spawnSync(
      process.execPath,
      [compiler, "--project", folder, "--pretty", "false"],
      { cwd: workspaceRoot, encoding: "utf8", maxBuffer: 256 * 1024 * 1024 }
    )
    if (error !== undefined) throw error
    const errors = parseErrors(stdout)
    if (status !== 0 && errors.length === 0) throw new Error(`tsc failed:\n${stdout}${stderr}`)
    return errors
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * Reads the compiler's plain output.
 *
 * @param {string} output
 * @returns {Array<CompileError>}
 */
const parseErrors = (output) => {
  /** @type {Array<CompileError>} */
  const errors = []
  for (const line of output.split(/\r?\n/)) {
    const head = /^(.+?)\((\d+),(\d+)\): error (TS\d+): (.*)$/.exec(line)
    const bare = /^error (TS\d+): (.*)$/.exec(line)
    if (head !== null) {
      const [, file = "", at, column, code = "", message = ""] = head
      errors.push({ file: resolve(workspaceRoot, file), line: Number(at), column: Number(column), code, message })
    } else if (bare !== null) {
      errors.push({ file: "", line: 0, column: 0, code: bare[1] ?? "", message: bare[2] ?? "" })
    } else if (/^\s+\S/.test(line)) {
      const last = errors.at(-1)
      if (last !== undefined) last.message += `\n${line.trim()}`
    }
  }
  return errors
}
