/**
 * One of the many connections that a PGlite session pretends to have: the server's end of the wire protocol, as far as
 * it concerns a single connection.
 */
import type { Fiber } from "effect"
import { Buffer } from "node:buffer"
import { randomInt } from "node:crypto"
import { Duplex } from "node:stream"
import * as Wire from "./wire.ts"

/** What a connection asks of the session. */
export interface Session {
  /** Answers for AuthenticationOk and the server's parameters. */
  readonly greeting: Buffer
  /** Runs the connection's next cycle when it is its turn. */
  readonly submit: (connection: Connection) => void
  readonly cancel: (pid: number, secret: number) => void
  readonly leave: (connection: Connection) => void
}

const listenPattern = /^\s*(?:(listen)|unlisten)\s+(?:"((?:[^"]|"")+)"|(\*)|([^\s;"]+))\s*;?\s*$/i

/** A LISTEN or UNLISTEN; `channel` is undefined for all channels. */
interface Subscription {
  readonly listen: boolean
  readonly channel: string | undefined
}

export class Connection extends Duplex {
  readonly pid: number
  readonly secret = randomInt(1, 0x7fffffff)
  /** What the client sent up to a `Sync`, to be answered as a whole. */
  readonly cycles: Array<Buffer> = []
  readonly channels = new Set<string>()
  /** Ends the wait for another connection's transaction. */
  waiting: Fiber.Fiber<void> | undefined
  private readonly session: Session
  private readonly reader = new Wire.Reader()
  private readonly subscriptions = new Map<string, Subscription>()
  private cycle: Array<Buffer> = []

  constructor(session: Session, pid: number) {
    super({ allowHalfOpen: false })
    this.session = session
    this.pid = pid
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.reader.add(chunk)
    while (!this.destroyed) {
      const message = this.reader.next()
      if (message === undefined) break
      if (this.reader.opening) this.open(message)
      else this.receive(message)
    }
    done()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.session.leave(this)
    done(error)
  }

  private open(message: Buffer): void {
    switch (message.readInt32BE(4)) {
      case Wire.opening.ssl:
      case Wire.opening.gssEncryption:
        this.push(Buffer.from("N"))
        return
      case Wire.opening.cancel:
        this.session.cancel(message.readInt32BE(8), message.readInt32BE(12))
        this.destroy()
        return
      default:
        this.reader.opening = false
        this.push(Buffer.concat([this.session.greeting, Wire.backendKey(this.pid, this.secret), Wire.ready]))
    }
  }

  private receive(message: Buffer): void {
    switch (message[0]) {
      case Wire.type.terminate:
        this.destroy()
        return
      case Wire.type.parse: {
        const name = Wire.textAt(message, 5)
        const sql = Wire.textAt(message, name.end)
        const subscription = parseSubscription(sql.value)
        this.subscriptions.delete(name.value)
        if (subscription !== undefined) {
          this.subscriptions.set(name.value, subscription)
          message = Wire.message(
            Wire.type.parse,
            Wire.text(name.value),
            statement(subscription),
            message.subarray(sql.end)
          )
        }
        break
      }
      case Wire.type.bind: {
        const portal = Wire.textAt(message, 5)
        this.subscribe(this.subscriptions.get(Wire.textAt(message, portal.end).value))
        break
      }
      case Wire.type.query: {
        const subscription = parseSubscription(Wire.textAt(message, 5).value)
        this.subscribe(subscription)
        if (subscription !== undefined) message = Wire.message(Wire.type.query, statement(subscription))
        break
      }
    }
    // PGlite exits when it waits for the data of a COPY and none is there; sql-pg would not send any.
    if (message[0] === Wire.type.sync) this.cycle.push(Wire.copyFail)
    this.cycle.push(message)
    if (message[0] === Wire.type.query) this.cycle.push(Wire.copyFail)
    if (message[0] !== Wire.type.sync && message[0] !== Wire.type.query) return
    this.cycles.push(Buffer.concat(this.cycle))
    this.cycle = []
    this.session.submit(this)
  }

  private subscribe(subscription: Subscription | undefined): void {
    if (subscription === undefined) return
    if (subscription.channel === undefined) this.channels.clear()
    else if (subscription.listen) this.channels.add(subscription.channel)
    else this.channels.delete(subscription.channel)
  }
}

const parseSubscription = (sql: string): Subscription | undefined => {
  // Nothing longer than two channel names is one of these.
  const match = sql.length > 200 ? null : listenPattern.exec(sql)
  if (match === null) return undefined
  const [, listen, quoted, , plain] = match
  return { listen: listen !== undefined, channel: quoted?.replaceAll('""', '"') ?? plain?.toLowerCase() }
}

/**
 * The shared session goes on listening for the other connections: an UNLISTEN becomes one for a channel that nobody
 * has.
 */
const statement = ({ channel, listen }: Subscription): Buffer =>
  listen && channel !== undefined
    ? Wire.text(`LISTEN "${channel.replaceAll('"', '""')}"`)
    : Wire.text('UNLISTEN "coppice_nobody"')
