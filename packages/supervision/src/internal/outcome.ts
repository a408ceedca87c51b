/** What the handlers of a `GenServer` are, and what they decide. */
import type { Cause, Effect } from "effect"

/** Answers a call and goes on. */
export class Reply<out A, out S> {
  readonly value: A
  readonly state: S
  readonly then: Then | undefined
  constructor(value: A, state: S, then: Then | undefined) {
    this.value = value
    this.state = state
    this.then = then
  }
}

/** Goes on without an answer. */
export class Next<out S> {
  readonly state: S
  readonly then: Then | undefined
  constructor(state: S, then: Then | undefined) {
    this.state = state
    this.then = then
  }
}

/** Ends the server. */
export class Stop<out A = never> {
  readonly reason: StopReason
  readonly reply: { readonly value: A } | undefined
  constructor(reason: StopReason, reply: { readonly value: A } | undefined) {
    this.reason = reason
    this.reply = reply
  }
}

/** What a handler may ask for besides its state: `continue` has that handler run before any other message. */
export interface Then {
  readonly continue: unknown
}

export type StopReason = "normal" | "shutdown" | Cause.Cause<unknown>

/** A bare state is an outcome as well. */
export type Outcome = Reply<unknown, unknown> | Stop<unknown> | unknown
export type Run = Effect.Effect<Outcome, unknown, unknown>

export interface Handlers {
  readonly calls: Readonly<Record<string, (state: unknown, ...args: ReadonlyArray<unknown>) => Run>>
  readonly casts: Readonly<Record<string, (state: unknown, ...args: ReadonlyArray<unknown>) => Run>>
  readonly info: ((state: unknown, message: unknown) => Run) | undefined
  readonly continue: ((state: unknown, argument: unknown) => Run) | undefined
  readonly idle: { readonly afterMillis: number; readonly handle: (state: unknown) => Run } | undefined
  readonly capacity: number
}
