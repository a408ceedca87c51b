/** What the supervision suite asks of whoever wants to be measured: a counter that is a process, and its supervisor. */
import type { Effect, Scope } from "effect"

export interface Implementation {
  readonly name: string
  /** Operations per sample, so that a fast implementation is not over before the clock has moved. */
  readonly operations: number
  /** One counter under a supervisor; it stops with the scope. */
  readonly counter: Effect.Effect<Counter, never, Scope.Scope>
  /** `count` idle counters under one supervisor; they stop with the scope, in reverse order. */
  readonly counters: (count: number) => Effect.Effect<unknown, never, Scope.Scope>
}

export interface Counter {
  /** Calls one after another, each waiting for its reply. */
  readonly calls: (count: number) => Effect.Effect<void>
  /** Casts one after another, then waits until the last is handled. */
  readonly casts: (count: number) => Effect.Effect<void>
  /** Crashes the counter by message, waits until it runs again, and so on; `restarted` is called each time it does. */
  readonly crashes: (count: number, restarted: () => void) => Effect.Effect<void>
}

/** What a crash dies of: made once, for it is not the making of a stack trace that is measured. */
export const crashed = new Error("crashed on request")
