/** A web of its own for the demo: every address below it is a page that says something of itself. */
import { layer as layerNodeServer } from "@effect/platform-node/NodeHttpServer"
import { Context, Effect, Layer, type Scope } from "effect"
import { HttpServer, type HttpServerError, HttpServerRequest, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"

export interface PageServer {
  /** Where it listens, without a slash at the end. */
  readonly url: string
  /** How often each page was asked for, by its path. */
  readonly asked: ReadonlyMap<string, number>
  /** How many requests wait for their answer. */
  readonly open: () => number
}

/** What a page at a path is called. */
export const titleOf = (path: string): string => `The page ${path}`

/** Serves until the scope closes. An answer waits for `ready` first, and below `/gone` there is no page. */
export const start = (
  ready: Effect.Effect<void>,
  onAsked: () => void = () => {}
): Effect.Effect<PageServer, HttpServerError.ServeError, Scope.Scope> =>
  Effect.gen(function* () {
    const asked = new Map<string, number>()
    let open = 0
    const answer = Effect.gen(function* () {
      const { url: path } = yield* HttpServerRequest.HttpServerRequest
      asked.set(path, (asked.get(path) ?? 0) + 1)
      onAsked()
      open++
      yield* Effect.ensuring(
        ready,
        Effect.sync(() => open--)
      )
      if (path.startsWith("/gone")) return HttpServerResponse.empty({ status: 404 })
      // The paths are the demo's own, so there is nothing in them to escape.
      const head = `<title>${titleOf(path)}</title><meta name="description" content="What ${path} is about.">`
      return HttpServerResponse.text(`<!doctype html><head>${head}</head>`, { contentType: "text/html" })
    })
    const server = HttpServer.serve(answer).pipe(
      Layer.provideMerge(layerNodeServer(createServer, { host: "127.0.0.1", port: 0, gracefulShutdownTimeout: 0 }))
    )
    const { address } = Context.get(yield* Layer.build(server), HttpServer.HttpServer)
    return { url: HttpServer.formatAddress(address), asked, open: () => open }
  })
