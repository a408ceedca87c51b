/**
 * The connections of a server that begins, or is about to stop.
 *
 * It listens before there is anybody who answers, and Node forgets requests that nobody takes: a browser that comes back
 * at that moment would wait without end. They are kept until there is somebody.
 *
 * When it closes, Node's server drops the connections that are idle at that moment, and waits for all others: those that
 * a browser opened in advance and never used, those that become idle a moment later, and those of readers that do not read.
 * None is worth waiting for, and a reader that does not read is not kept for ever before that either.
 */
import { Duration } from "effect"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { Socket } from "node:net"

export interface Connections {
  readonly server: Server
  /**
   * Drops what was never used, or never taken, and soon those who do not read. To be called when the server closes; what
   * becomes idle later is dropped by itself.
   */
  readonly letGo: () => void
}

/** Whoever takes nothing for so many milliseconds of what a server that stops has sent them is not waited for. */
const lastPatience = 500

/** For `patience` a connection may be silent: more than twice as long as an open page is. */
export const make = (patience: Duration.Input = "40 seconds"): Connections => {
  const server = createServer()
  server.timeout = Duration.toMillis(patience)
  const open = new Set<Socket>()
  server.on("connection", (socket) => {
    open.add(socket)
    socket.once("close", () => open.delete(socket))
  })
  const early: Array<readonly [IncomingMessage, ServerResponse]> = []
  server.on("newListener", (event: string) => {
    if (event !== "request") return
    setImmediate(() => {
      for (const [request, response] of early.splice(0)) server.emit("request", request, response)
    })
  })
  server.on("request", (request, response) => {
    if (server.listenerCount("request") === 1) {
      early.push([request, response])
      return
    }
    // One turn later Node has seen the end of the response as well.
    response.once("finish", () => {
      if (!server.listening) setImmediate(() => server.closeIdleConnections())
    })
  })
  const letGo = (): void => {
    for (const socket of open) {
      if (socket.bytesRead === 0) socket.destroy()
      else if (socket.writableLength > 0) socket.setTimeout(lastPatience)
    }
    for (const [request] of early) request.socket.destroy()
  }
  return { server, letGo }
}
