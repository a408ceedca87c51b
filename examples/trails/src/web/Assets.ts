/** The stylesheet and the script of the pages: read when the server starts, served from memory. */
import { Effect, FileSystem } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { fileURLToPath } from "node:url"

export const layer = HttpRouter.use((router) =>
  Effect.gen(function* () {
    const files = yield* FileSystem.FileSystem
    for (const [name, contentType] of assets) {
      const text = yield* files.readFileString(fileURLToPath(new URL(`assets/${name}`, import.meta.url)))
      const headers = { "cache-control": "no-cache" }
      yield* router.add("GET", `/assets/${name}`, HttpServerResponse.text(text, { contentType, headers }))
    }
  })
)

const assets = [
  ["page.css", "text/css; charset=utf-8"],
  ["page.js", "text/javascript; charset=utf-8"]
] as const
