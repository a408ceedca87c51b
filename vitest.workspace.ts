import { defineConfig } from "vitest/config"

const conditions = ["@coppice/source"]

const project = (root: string) => ({
  extends: true as const,
  root,
  test: { name: root.slice(root.indexOf("/") + 1), include: ["test/**/*.test.ts"] }
})

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    projects: [
      project("packages/supervision"),
      project("packages/postgres"),
      project("packages/domain"),
      project("packages/bench"),
      project("examples/trails")
    ]
  }
})
