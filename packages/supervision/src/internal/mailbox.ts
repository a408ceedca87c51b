/** The mailbox of a server: messages in the order in which they came, and the callers who wait for their answers. */
import type { Exit, Tracer } from "effect"
import type { Run } from "./outcome.ts"

/** A message in a mailbox. */
export interface Message {
  readonly name: string
  readonly run: (state: unknown) => Run
  readonly request: Request | undefined
  readonly span: Tracer.AnySpan | undefined
}

/** A caller that waits. Settled once: by the answer, its timeout, the server's end or its own interruption. */
export class Request {
  queued = false
  exit: Exit.Exit<unknown, unknown> | undefined
  resume: ((exit: Exit.Exit<unknown, unknown>) => void) | undefined
  deadline = 0
  timeoutMillis = 0
  armed = false

  settle(exit: Exit.Exit<unknown, unknown>): void {
    if (this.exit !== undefined) return
    this.exit = exit
    this.resume?.(exit)
  }
}

export class Mailbox {
  private messages: Array<Message | undefined> = []
  private head = 0
  private departed = 0

  /** How many messages wait; those whose callers have left do not count. */
  get length(): number {
    return this.messages.length - this.head - this.departed
  }

  push(message: Message): void {
    if (message.request !== undefined) message.request.queued = true
    this.messages.push(message)
  }

  /** The next message, also one whose caller has left. */
  take(): Message | undefined {
    if (this.head === this.messages.length) return undefined
    const message = this.messages[this.head]
    this.messages[this.head++] = undefined
    if (hasLeft(message)) this.departed--
    else if (message?.request !== undefined) message.request.queued = false
    if (this.head === this.messages.length) {
      this.messages.length = 0
      this.head = 0
    } else if (this.head > 1024 && this.head * 2 > this.messages.length) {
      this.messages.splice(0, this.head)
      this.head = 0
    }
    return message
  }

  /** A caller no longer waits: its message is to be skipped when its turn comes, and does not count until then. */
  leave(request: Request): void {
    if (!request.queued) return
    request.queued = false
    this.departed++
    if (this.departed <= 64 || this.departed * 2 <= this.messages.length - this.head) return
    this.messages = this.messages
      .slice(this.head)
      .filter((message) => message?.request !== request && !hasLeft(message))
    this.head = 0
    this.departed = 0
  }
}

const hasLeft = (message: Message | undefined): boolean =>
  message?.request !== undefined && !message.request.queued && message.request.exit !== undefined
