/** The web server: pages for people, JSON for programs, and the live panel. */
import { layer as layerNodeServer } from "@effect/platform-node/NodeHttpServer"
import { Effect, Layer, Schema } from "effect"
import { HttpRouter } from "effect/http"
import * as ApiHandlers from "./ApiHandlers.ts"
import * as Assets from "./Assets.ts"
import * as Connections from "./Connections.ts"
import * as Guard from "./Guard.ts"
import * as Live from "./Live.ts"
import { LiveTrails } from "./LiveTrails.ts"
import * as NotificationPages from "./NotificationPages.ts"
import * as Pages from "./Pages.ts"
import { Viewing } from "./Viewing.ts"

/** Where the server listens. */
export interface Options {
  readonly host: string
  readonly port: number
}

/** The server cannot listen where it was told to. */
export class CannotListen extends Schema.TaggedError<CannotListen>()("CannotListen", {
  host: Schema.String,
  port: Schema.Int,
  cause: Schema.Defect()
}) {
  override get message(): string {
    const code = this.cause instanceof Error && "code" in this.cause ? this.cause.code : undefined
    const where = `${this.host}:${this.port}`
    switch (code) {
      case "EADDRINUSE":
        return `${where} is in use by another program. Stop it, or choose another port with --port.`
      case "EACCES":
        return `This user may not listen on ${where}. Choose a port from 1024 with --port.`
      case "EADDRNOTAVAIL":
      case "ENOTFOUND":
        return `${this.host} is no address of this machine. Choose another one with --host.`
      default:
        return `Cannot listen on ${where}: ${String(this.cause)}`
    }
  }
}

/**
 * Serves until its scope closes; then requests that run have four seconds to end, and live panels end at once.
 *
 * On an address of this machine only, the panel has buttons that crash a process. On any other it has none: there is no
 * login here that could tell who may.
 */
export const layer = ({ host, port }: Options) =>
  Layer.unwrap(
    Effect.sync(() => {
      const { letGo, server } = Connections.make()
      const local = Guard.isLoopback(host)
      const routes = Layer.mergeAll(
        Guard.layer(host),
        ApiHandlers.layer,
        Pages.layer(local),
        NotificationPages.layer(local),
        Live.layer(local),
        Assets.layer
      )
      // Built after the server, so closed before it.
      const closeFirst = Layer.effectDiscard(
        Effect.flatMap(Live.Closing, (closing) =>
          Effect.addFinalizer(() => Effect.andThen(closing.open, Effect.sync(letGo)))
        )
      )
      const listening = layerNodeServer(() => server, { host, port, gracefulShutdownTimeout: "4 seconds" }).pipe(
        Layer.catchTag("ServeError", ({ cause }) =>
          Layer.effectContext<unknown, CannotListen, never>(new CannotListen({ host, port, cause }))
        )
      )
      return closeFirst.pipe(
        Layer.provideMerge(HttpRouter.serve(routes, { disableLogger: true })),
        Layer.provide([Live.Closing.layer, LiveTrails.layer, Viewing.layer]),
        Layer.provideMerge(listening)
      )
    })
  )
