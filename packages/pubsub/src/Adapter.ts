/**
 * What carries broadcasts between nodes.
 *
 * An adapter takes messages and gives what other nodes sent to `Receiver`. It never fails and never makes anybody wait: what
 * it cannot deliver is lost, and the receiving nodes are told that something is (`gap`), because events are delivered at
 * most once. Messages of one node arrive at another in the order in which they were sent.
 */
import type { Effect, Scope } from "effect"

/** A message between nodes: an event of a topic, encoded. */
export interface Message {
  readonly topic: string
  /** The event as JSON. */
  readonly event: unknown
}

/** What an adapter knows of the other nodes. `solitary`: connected, and nobody else was heard of. */
export type Status = "disconnected" | "solitary" | "clustered"

/** Why events may have been lost: those of other nodes, or after a crash of the `PubSub` itself (`restarted`) any. */
export type GapReason = "disconnected" | "missed" | "restarted"

/**
 * Where an adapter delivers. Returns at once: an adapter with many messages lets others have a turn between some hundreds of
 * them, or subscribers that handle one event after the other cannot keep up.
 */
export interface Receiver {
  readonly deliver: (message: Message, from: string) => void
  readonly gap: (reason: Exclude<GapReason, "restarted">) => void
  readonly status: (status: Status) => void
}

/** A running adapter. */
export interface Adapter {
  /** Sends to all other nodes, or to one of them. An unknown node is nobody, as in Phoenix. Returns at once. */
  readonly send: (message: Message, to?: string) => void
  /** Waits until what was sent so far has left this node, or was given up. */
  readonly flush: Effect.Effect<void>
}

/** Starts an adapter for the node with this id; it ends with the scope. */
export type Make<E = never, R = never> = (
  node: string,
  receiver: Receiver
) => Effect.Effect<Adapter, E, R | Scope.Scope>
