/**
 * What a subscription gets, how it keeps it, and what it says when it could not.
 *
 * Each subscription has a queue of its own: what one does not take, no other misses, and whoever broadcasts does not wait.
 */
import { Schema, type Stream } from "effect"
import type { GapReason } from "./Adapter.ts"
import type { Topic } from "./Topic.ts"

/** What a subscription gets. */
export type Message<Event> =
  /** An event, and the id of the node that it was broadcast on. */
  | { readonly _tag: "Event"; readonly event: Event; readonly node: string }
  /** This subscription was too slow, and so many events were dropped. */
  | { readonly _tag: "Lagged"; readonly missed: number }
  /** Events may have been lost: what was read before may be out of date. One is told for all that follow each other. */
  | { readonly _tag: "Gap"; readonly reason: GapReason }

/** How a subscription keeps what its subscriber has not taken yet. */
export interface SubscribeOptions {
  /**
   * How many messages wait at most while the subscriber does something else, at least 1. Defaults to 1024. Who has taken all
   * and waits for more loses nothing to a burst: up to 16,384 messages may come before it has its turn.
   */
  readonly capacity?: number | undefined
  /**
   * What happens when there are more: `sliding` drops the oldest, `dropping` the newest, `fail` ends the subscription with
   * `SubscriberTooSlow`. Defaults to `sliding`.
   */
  readonly policy?: "sliding" | "dropping" | "fail" | undefined
}

/** A subscription with the policy `fail` was too slow. */
export class SubscriberTooSlow extends Schema.TaggedError<SubscriberTooSlow>("@coppice/pubsub/SubscriberTooSlow")(
  "SubscriberTooSlow",
  { topic: Schema.String, capacity: Schema.Int }
) {
  override get message(): string {
    return (
      `A subscription of ${this.topic} had more than ${this.capacity} messages waiting: take them faster, give it more`
      + ` capacity, or let it lose some (policy: "sliding")`
    )
  }
}

/**
 * A registered subscription: it gets what is broadcast from now on, until its scope closes.
 *
 * A `PubSub` that crashes and is restarted by its supervisor takes its subscriptions over, each with a `Gap`. If it does not
 * come back, they end with a defect.
 */
export interface Subscription<Event> {
  readonly topic: Topic<Event>
  /**
   * Every message. One consumer at a time: two would share the messages. It takes all that waits in one step, so what one
   * that ends early (`Stream.take`) has not used is gone.
   */
  readonly messages: Stream.Stream<Message<Event>, SubscriberTooSlow>
  /** The events alone. */
  readonly events: Stream.Stream<Event, SubscriberTooSlow>
}
