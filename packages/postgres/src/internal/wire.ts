/**
 * The parts of PostgreSQL's wire protocol that standing between a client and a server takes.
 *
 * A message is a type byte, a length that counts itself but not the type, and a body. The first message of a
 * connection has no type byte.
 */
import { Buffer } from "node:buffer"

/** Message types, by the names of the protocol's documentation. Those of client and server overlap. */
export const type = {
  authentication: 0x52,
  bind: 0x42,
  notification: 0x41,
  parameterStatus: 0x53,
  parse: 0x50,
  query: 0x51,
  readyForQuery: 0x5a,
  sync: 0x53,
  terminate: 0x58
} as const

/** What `ReadyForQuery` says about transactions. */
export const status = { idle: 0x49 } as const

/** Codes in the place of the protocol version of a first message. */
export const opening = { version3: 196608, cancel: 80877102, ssl: 80877103, gssEncryption: 80877104 } as const

/** One message. */
export const message = (type: number, ...body: ReadonlyArray<Buffer>): Buffer => {
  const content = Buffer.concat(body)
  const head = Buffer.allocUnsafe(5)
  head.writeUInt8(type)
  head.writeInt32BE(content.length + 4, 1)
  return Buffer.concat([head, content])
}

export const text = (value: string): Buffer => Buffer.from(`${value}\0`)

export const int32 = (value: number): Buffer => {
  const buffer = Buffer.allocUnsafe(4)
  buffer.writeInt32BE(value)
  return buffer
}

/** The first message of a client. */
export const startup = (user: string, database: string): Buffer => {
  const body = [int32(opening.version3), text("user"), text(user), text("database"), text(database), Buffer.alloc(1)]
  const content = Buffer.concat(body)
  return Buffer.concat([int32(content.length + 4), content])
}

/** Ends a COPY from the client; a server that is in none ignores it. */
export const copyFail: Buffer = message(0x66, text("COPY is not supported"))

export const query = (sql: string): Buffer => message(type.query, text(sql))

/** What a server says when it is ready and no transaction is open. */
export const ready: Buffer = message(type.readyForQuery, Buffer.of(status.idle))

export const backendKey = (pid: number, secret: number): Buffer => message(0x4b, int32(pid), int32(secret))

export const error = (code: string, reason: string): Buffer =>
  message(0x45, text("SERROR"), text("VERROR"), text(`C${code}`), text(`M${reason}`), Buffer.alloc(1))

/** Reads the text that starts at `offset`. */
export const textAt = (buffer: Buffer, offset: number): { readonly value: string; readonly end: number } => {
  const end = buffer.indexOf(0, offset)
  return { value: buffer.toString("utf8", offset, end), end: end + 1 }
}

/** Splits what a server sent in whole messages. */
export function* messages(buffer: Buffer): Generator<Buffer> {
  for (let start = 0; start < buffer.length;) {
    const end = start + 1 + buffer.readInt32BE(start + 1)
    yield buffer.subarray(start, end)
    start = end
  }
}

/** Collects what a client sends, in whatever pieces, into whole messages. */
export class Reader {
  private rest: Buffer = Buffer.alloc(0)
  /** Whether the next message is a first one, without a type byte. */
  opening = true

  add(chunk: Buffer): void {
    this.rest = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk])
  }

  next(): Buffer | undefined {
    const head = this.opening ? 0 : 1
    if (this.rest.length < head + 4) return undefined
    const length = head + this.rest.readInt32BE(head)
    if (this.rest.length < length) return undefined
    const message = this.rest.subarray(0, length)
    this.rest = this.rest.subarray(length)
    return message
  }
}
