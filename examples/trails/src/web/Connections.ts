/**
 * The connections of a server that is about to stop.
 *
 * When it closes, Node's server drops the connections that are idle at that moment, and waits for all others: those that
 * a browser opened in advance and never used, and those that become idle a moment later. Neither is worth waiting for.
 */
import { createServer, type Server } from "node:http"
import type { Socket } from "node:net"

export interface Connections {
  readonly server: Server
  /** Drops what was never used. To be called when the server closes; what becomes idle later is dropped by itself. */
  readonly letGo: () => void
}

export const make = (): Connections => {
  const server = createServer()
  const open = new Set<Socket>()
  server.on("connection", (socket) => {
    open.add(socket)
    socket.once("close", () => open.delete(socket))
  })
  server.on("request", (_request, response) => {
    // One turn later Node has seen the end of the response as well.
    response.once("finish", () => {
      if (!server.listening) setImmediate(() => server.closeIdleConnections())
    })
  })
  const letGo = (): void => {
    for (const socket of open) if (socket.bytesRead === 0) socket.destroy()
  }
  return { server, letGo }
}
