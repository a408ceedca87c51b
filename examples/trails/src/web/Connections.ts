/**
 * The connections of a server that begins, or is about to stop.
 *
 * It listens before there is anybody who answers, and Node forgets requests that nobody takes: a browser that comes back
 * at that moment would wait without end. They are kept until there is somebody.
 *
 * When it closes, Node's server drops the connections that are idle at that moment, and waits for all others: those that
 * a browser opened in advance and never used, and those that become idle a moment later. Neither is worth waiting for.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { Socket } from "node:net"

export interface Connections {
  readonly server: Server
  /** Drops what was never used, or never taken. To be called when the server closes; what becomes idle later is dropped by itself. */
  readonly letGo: () => void
}

export const make = (): Connections => {
  const server = createServer()
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
    for (const socket of open) if (socket.bytesRead === 0) socket.destroy()
    for (const [request] of early) request.socket.destroy()
  }
  return { server, letGo }
}
