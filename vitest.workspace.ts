import { existsSync, readdirSync } from "node:fs"
import { availableParallelism } from "node:os"
import { resolve } from "node:path"
import { defineConfig } from "vitest/config"

// Workers, and the processes that tests start, are a hundred: each would compile the same modules again.
process.env["NODE_COMPILE_CACHE"] ??= resolve("node_modules/.cache/node")

// Workspace packages resolve to their sources, so tests need no build.
const conditions = ["@coppice/source"]

const project = (root: string, name: string) => ({
  extends: true as const,
  root,
  test: {
    name,
    include: ["test/**/*.test.ts"],
    // Loading Effect for each file would take a third of the run. What `postgres` tests keep for a file is its own.
    isolate: name === "postgres"
  }
})

const members = ["packages", "examples"].flatMap((folder) =>
  readdirSync(folder)
    .filter((name) => existsSync(`${folder}/${name}/test`))
    .map((name) => project(`${folder}/${name}`, name))
)

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    // One PostgreSQL server for the run, for `Postgres.layerTestDatabase`; DATABASE_URL names another.
    globalSetup: ["packages/postgres/src/testing/global-setup.ts"],
    // Tests that start servers and child processes wait as much as they compute, so there are more workers than cores.
    maxWorkers: availableParallelism() + 1,
    // Tests of a file that wait beside each other have databases of their own, whose connections must be enough for all.
    maxConcurrency: 3,
    // A limit that only a hang reaches, also on a busy machine.
    testTimeout: 30_000,
    hookTimeout: 60_000,
    projects: [...members, project("scripts", "workspace")]
  }
})
