/** Why a call or cast failed; public as `GenServer.CallError` and its reasons. */
import { Cause, Schema } from "effect"
import type { Failure } from "./server.ts"

/** No answer came in time. The server may still handle the message; its answer will be dropped. */
export class Timeout extends Schema.TaggedClass<Timeout>()("Timeout", { millis: Schema.Finite }) {}

/** The server ended before it answered; `cause` is why (empty for a normal end). */
export class Down extends Schema.TaggedClass<Down>()("Down", { cause: Schema.Unknown }) {}

/** As many messages wait as the mailbox may hold; the message was not accepted. */
export class MailboxFull extends Schema.TaggedClass<MailboxFull>()("MailboxFull", { capacity: Schema.Finite }) {}

/** A handler called its own server, which could never answer. */
export class CallingSelf extends Schema.TaggedClass<CallingSelf>()("CallingSelf", {}) {}

/** A call or cast that the server could not be asked, or did not answer. */
export class CallError extends Schema.TaggedError<CallError>()("CallError", {
  server: Schema.String,
  reason: Schema.Union([Timeout, Down, MailboxFull, CallingSelf])
}) {
  override get message(): string {
    const { reason, server } = this
    switch (reason._tag) {
      case "Timeout":
        return `${server} did not answer within ${reason.millis} ms`
      case "Down":
        return `${server} ended before it answered: ${describe(reason.cause)}`
      case "MailboxFull":
        return `${server} has ${reason.capacity} messages waiting and takes no more: slow down, or raise its capacity`
      case "CallingSelf":
        return `${server} was called by its own handler and could never answer: change the state in the handler instead`
    }
  }
}

const describe = (cause: unknown): string => {
  if (!Cause.isCause(cause) || cause.reasons.length === 0) return "it stopped normally"
  const error: unknown = Cause.squash(cause)
  return error instanceof Error ? error.message : String(error)
}

export const toCallError = (server: string, failure: Failure): CallError => {
  switch (failure._tag) {
    case "Timeout":
      return new CallError({ server, reason: new Timeout({ millis: failure.millis }) })
    case "Down":
      return new CallError({ server, reason: new Down({ cause: failure.cause }) })
    case "MailboxFull":
      return new CallError({ server, reason: new MailboxFull({ capacity: failure.capacity }) })
    case "CallingSelf":
      return new CallError({ server, reason: new CallingSelf({}) })
  }
}
