/**
 * What waits to be sent: bounded, in order, and packed into notifications when the database can take them.
 *
 * Messages that come while a batch is on its way make the next one. When it is full, the oldest are given up; receivers
 * find the hole.
 */
import { Effect } from "effect"
import type { Message } from "../../Adapter.ts"
import type { Cluster } from "../cluster.ts"
import { encodeEntry, type Sign } from "../envelope.ts"
import { encodeAttached, maxBytes, toAscii } from "./notification.ts"

export interface Options {
  readonly node: string
  readonly cluster: Cluster
  /** Whether the database's encoding lacks characters. */
  readonly ascii: boolean
  readonly maxMessages: number
  readonly maxBytes: number
}

/** What leaves in one statement. */
export interface Batch {
  readonly notifications: ReadonlyArray<string>
  /** Packets that are too large for a notification, with their numbers. */
  readonly attachments: ReadonlyArray<{ readonly seq: number; readonly body: string }>
  readonly messages: number
  readonly bytes: number
  readonly sign: Sign | undefined
}

/** A message, or where one was that cannot leave. */
interface Waiting {
  readonly text: string | undefined
  readonly bytes: number
  readonly to: string | undefined
}

interface Waiter {
  readonly isDone: () => boolean
  readonly resume: () => void
}

/** How large an event may be: what is larger is given up. */
const maxEventBytes = 16 * 1024 * 1024

/** How much one statement takes, unless a single message is larger. */
const batchBytes = 512 * 1024

/** The most that a packet adds to its messages: names of fields, the sender, a number. */
const packetBytes = 160

/** What may be a node. The others need not fetch what is for it; for anything else, only the attachment says for whom. */
const nodeId = /^[\w-]{1,64}$/

export class Outbox {
  /** How many messages were given up. */
  lost = 0
  private readonly options: Options
  private queue: Array<Waiting> = []
  /** Where the queue begins. */
  private first = 0
  private bytes = 0
  /** How many messages came, and how many had left or were given up when the last batch was taken. */
  private came = 0
  private settledBefore = 0
  private onTheirWay = false
  private sign: Sign | undefined
  private wake: (() => void) | undefined
  private waiters: Array<Waiter> = []
  private closed = false

  constructor(options: Options) {
    this.options = options
  }

  /** Puts a message at the end. One that is too large, or not JSON, is given up in its place. */
  add(message: Message, to: string | undefined): void {
    if (this.closed) return
    const json = encodeEntry(message, to)
    const text = json !== undefined && this.options.ascii ? toAscii(json) : json
    const bytes = text === undefined ? 0 : Buffer.byteLength(text)
    this.came++
    if (text === undefined || bytes > maxEventBytes) {
      this.lost++
      this.queue.push({ text: undefined, bytes: 0, to })
    } else {
      this.queue.push({ text, bytes, to })
      this.bytes += bytes
    }
    while (this.length > this.options.maxMessages || this.bytes > this.options.maxBytes) this.giveUpOldest()
    this.awaken()
  }

  /** Asks for a sign of life, after what waits now. A hello is one that also asks; a bye is the last. */
  say(sign: Sign): void {
    if (this.sign === undefined || sign === "bye" || (sign === "hello" && this.sign === "alive")) this.sign = sign
    this.awaken()
  }

  /** Takes what one statement carries; undefined where nothing waits. It is settled before the next is taken. */
  take(): Batch | undefined {
    if (this.length === 0 && this.sign === undefined) return undefined
    this.settledBefore = this.came - this.length
    this.onTheirWay = true
    const { cluster } = this.options
    const notifications: Array<string> = []
    const attachments: Array<{ readonly seq: number; readonly body: string }> = []
    let messages = 0
    let taken = 0
    let packet: Array<string> = []
    let size = packetBytes
    const seal = () => {
      if (packet.length === 0) return
      notifications.push(cluster.packet(packet))
      packet = []
      size = packetBytes
    }
    for (; this.first < this.queue.length && taken < batchBytes; this.first++) {
      const { bytes, text, to } = this.next
      if (taken > 0 && taken + bytes > batchBytes) break
      taken += bytes
      if (text === undefined) {
        seal()
        cluster.skip()
        continue
      }
      messages++
      if (size + bytes + 1 > maxBytes) seal()
      if (size + bytes + 1 > maxBytes) {
        attachments.push({ body: cluster.packet([text]), seq: cluster.last })
        const known = to !== undefined && nodeId.test(to) ? to : undefined
        notifications.push(encodeAttached({ from: this.options.node, seq: cluster.last, to: known }))
      } else {
        packet.push(text)
        size += bytes + 1
      }
    }
    seal()
    this.bytes -= taken
    this.compact()
    const { sign } = this
    this.sign = undefined
    if (sign !== undefined) notifications.push(cluster.sign(sign))
    return { notifications, attachments, messages, bytes: taken, sign }
  }

  /** The batch that was taken has left, or was given up. */
  settle(): void {
    this.onTheirWay = false
    this.tell()
  }

  /** Gives up all that waits, and whatever comes. */
  close(): void {
    this.closed = true
    this.lost += this.length
    this.queue = []
    this.first = 0
    this.bytes = 0
    this.tell()
  }

  /** Waits until something is there to take. */
  readonly filled: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.length > 0 || this.sign !== undefined) return resume(Effect.void)
    // In its own turn: whoever broadcasts does not run it, and what is broadcast in one go leaves in one batch.
    const wake = () => resume(Effect.yieldNow)
    this.wake = wake
    return Effect.sync(() => {
      if (this.wake === wake) this.wake = undefined
    })
  })

  /** Waits until what came so far has left or was given up. */
  readonly settled: Effect.Effect<void> = Effect.suspend(() => {
    const upTo = this.came
    return this.until(() => (this.onTheirWay ? this.settledBefore : this.came - this.length) >= upTo)
  })

  /** Waits until nothing waits, not even a sign. */
  readonly drained: Effect.Effect<void> = Effect.suspend(() =>
    this.until(() => !this.onTheirWay && this.length === 0 && this.sign === undefined)
  )

  private until(isDone: () => boolean): Effect.Effect<void> {
    return Effect.callback((resume) => {
      if (this.closed || isDone()) return resume(Effect.void)
      const waiter: Waiter = { isDone, resume: () => resume(Effect.void) }
      this.waiters.push(waiter)
      return Effect.sync(() => {
        this.waiters = this.waiters.filter((other) => other !== waiter)
      })
    })
  }

  private get length(): number {
    return this.queue.length - this.first
  }

  /** The oldest, where there is one. */
  private get next(): Waiting {
    return this.queue[this.first] ?? nothing
  }

  private giveUpOldest(): void {
    const { bytes, text } = this.next
    // It may be large, and the queue is not cut at once.
    this.queue[this.first] = nothing
    this.first++
    this.bytes -= bytes
    if (text !== undefined) this.lost++
    this.options.cluster.skip()
    this.compact()
    this.tell()
  }

  /** Cuts what has gone, when that is more than what is left. */
  private compact(): void {
    if (this.first <= this.length) return
    this.queue = this.queue.slice(this.first)
    this.first = 0
  }

  private tell(): void {
    if (this.waiters.length === 0) return
    const done = this.waiters.filter(({ isDone }) => this.closed || isDone())
    this.waiters = this.waiters.filter((waiter) => !done.includes(waiter))
    for (const { resume } of done) resume()
  }

  private awaken(): void {
    const { wake } = this
    this.wake = undefined
    wake?.()
  }
}

const nothing: Waiting = { text: undefined, bytes: 0, to: undefined }
