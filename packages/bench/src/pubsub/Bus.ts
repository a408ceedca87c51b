/** What the local cases of the pubsub suite ask of whoever wants to be measured: numbers that go from one to many in a process. */
import type { Effect, Scope } from "effect"

export interface Bus<Of = Topic> {
  readonly name: string
  /** Topics that nobody has subscribed to; what was subscribed ends with the scope. */
  readonly topics: (count: number) => Effect.Effect<ReadonlyArray<Of>, never, Scope.Scope>
}

export interface Topic {
  /** Broadcasts the numbers from `first` up to before `end`, one after another. */
  readonly broadcast: (first: number, end: number) => Effect.Effect<void>
  /** Registers a subscription that nobody takes anything from, until the scope closes. */
  readonly subscribe: Effect.Effect<unknown, never, Scope.Scope>
  /** Subscribes and takes what comes until the scope closes: `take` hears every number. */
  readonly consume: (take: (event: number) => void) => Effect.Effect<unknown, never, Scope.Scope>
}

/** A topic whose subscribers are streams. */
export interface StreamTopic extends Topic {
  /** As `consume`, with an effect for each number. */
  readonly consumeEach: (take: (event: number) => void) => Effect.Effect<unknown, never, Scope.Scope>
}
