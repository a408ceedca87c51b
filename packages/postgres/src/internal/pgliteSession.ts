/**
 * Presents one PGlite, which has a single session, as many PostgreSQL connections.
 *
 * - What a connection sends up to a `Sync` runs as a whole, so that connections cannot mix up their statements.
 * - While a connection is inside a transaction the session is its own: transactions run one after another.
 * - Notifications go to the connections that listen.
 * - It is synchronous: when the session is free, the answer is there before the `write` of the question returns. That
 *   is what makes a query part of `TestClock.adjust`.
 */
import { type Duration, Effect } from "effect"
import { Buffer } from "node:buffer"
import type { Duplex } from "node:stream"
import { Connection, type Session } from "./pgliteConnection.ts"
import * as Wire from "./wire.ts"

/** What is needed of PGlite. */
export interface Engine {
  /** Runs wire protocol messages to completion and returns the answer, in memory that nobody else uses. */
  readonly execProtocolRawSync: (message: Uint8Array) => Uint8Array
}

const heldTooLong =
  "PGlite has one session, and another connection's transaction has held it too long. "
  + "Code inside a transaction must not wait for work on another connection."

export class PgliteSession implements Session {
  readonly greeting: Buffer
  /** How many cycles have run. */
  cycles = 0
  private readonly engine: Engine
  private readonly patience: Duration.Input
  private readonly connections = new Set<Connection>()
  /** Those who have something to run, first come first served. */
  private readonly queue: Array<Connection> = []
  /** Whose transaction is open. */
  private owner: Connection | undefined
  private running = false
  private failure: Error | undefined
  private nextPid = 1

  /** A statement that has waited for another connection's transaction for as long as `patience` fails. */
  constructor(engine: Engine, patience: Duration.Input) {
    this.engine = engine
    this.patience = patience
    const kept: ReadonlyArray<number | undefined> = [Wire.type.authentication, Wire.type.parameterStatus]
    const greeting = Array.from(Wire.messages(this.run(Wire.startup("postgres", "postgres"))))
    if (this.failure !== undefined) throw this.failure
    this.greeting = Buffer.concat(greeting.filter((message) => kept.includes(message[0])))
  }

  /** Opens a connection, for the `stream` option of `PgClient`. */
  readonly connect = (): Duplex => {
    const connection = new Connection(this, this.nextPid++)
    if (this.failure === undefined) this.connections.add(connection)
    else connection.destroy(this.failure)
    return connection
  }

  /** Disconnects everybody, now and in the future. */
  readonly shutdown = (failure: Error): void => {
    this.failure ??= failure
    for (const connection of this.connections) connection.destroy(this.failure)
  }

  readonly submit = (connection: Connection): void => {
    if (!this.queue.includes(connection)) this.queue.push(connection)
    this.drain()
    if (connection.cycles.length > 0) this.limit(connection)
  }

  /** Only waiting statements can be cancelled: one that runs does not let JavaScript run. */
  readonly cancel = (pid: number, secret: number): void => {
    for (const connection of this.connections) {
      if (connection.pid !== pid || connection.secret !== secret) continue
      this.reject(connection, "57014", "canceling statement due to user request")
    }
  }

  readonly leave = (connection: Connection): void => {
    this.connections.delete(connection)
    this.forget(connection)
    connection.cycles.length = 0
    if (this.owner !== connection) return
    this.owner = undefined
    if (this.failure === undefined) this.run(Wire.query("ROLLBACK"))
    this.drain()
  }

  /** On a fiber of its own, whose clock is the live one: nothing that a test clock could wake would end the wait. */
  private limit(connection: Connection): void {
    const giveUp = Effect.sync(() => this.reject(connection, "55P03", heldTooLong))
    connection.waiting ??= Effect.runFork(Effect.delay(giveUp, this.patience))
  }

  private reject(connection: Connection, code: string, reason: string): void {
    if (connection === this.owner) return
    this.forget(connection)
    const answer = Buffer.concat([Wire.error(code, reason), Wire.ready])
    for (const _ of connection.cycles.splice(0)) connection.push(answer)
  }

  private forget(connection: Connection): void {
    connection.waiting?.interruptUnsafe()
    connection.waiting = undefined
    const index = this.queue.indexOf(connection)
    if (index >= 0) this.queue.splice(index, 1)
  }

  /** Answers resume fibers, which submit more: they find `running` set, and the loop takes what they submitted. */
  private drain(): void {
    if (this.running) return
    this.running = true
    try {
      for (let next = this.next(); next !== undefined; next = this.next()) this.answer(next)
    } finally {
      this.running = false
    }
  }

  private next(): Connection | undefined {
    const next = this.owner === undefined ? this.queue[0] : this.queue.find((waiting) => waiting === this.owner)
    if (next !== undefined) this.forget(next)
    return next
  }

  private answer(connection: Connection): void {
    const cycle = connection.cycles.shift()
    if (cycle === undefined) return
    if (connection.cycles.length > 0) {
      this.queue.push(connection)
      this.limit(connection)
    }
    const answer = this.run(cycle)
    const notifications: Array<Buffer> = []
    let status: number | undefined
    for (const message of Wire.messages(answer)) {
      if (message[0] === Wire.type.readyForQuery) status = message[5]
      else if (message[0] === Wire.type.notification) notifications.push(message)
    }
    this.owner = status === Wire.status.idle || status === undefined ? undefined : connection
    connection.push(notifications.length === 0 ? answer : withoutNotifications(answer))
    for (const notification of notifications) this.notify(connection.pid, notification)
  }

  private notify(from: number, notification: Buffer): void {
    const channel = Wire.textAt(notification, 9).value
    const message = Wire.message(Wire.type.notification, Wire.int32(from), notification.subarray(9))
    for (const connection of this.connections) if (connection.channels.has(channel)) connection.push(message)
  }

  private run(messages: Buffer): Buffer {
    this.cycles++
    try {
      const answer = this.engine.execProtocolRawSync(messages)
      return Buffer.from(answer.buffer, answer.byteOffset, answer.byteLength)
    } catch (cause) {
      this.shutdown(new Error("PGlite has crashed", { cause }))
      return Buffer.alloc(0)
    }
  }
}

const withoutNotifications = (answer: Buffer): Buffer =>
  Buffer.concat(Array.from(Wire.messages(answer)).filter((message) => message[0] !== Wire.type.notification))
