/**
 * What the domain tells the rest of the application, on every node: what has happened to a trail, once it has committed.
 *
 * An event says that there is something new, the database says what: whoever is told reads it there. So an event that was
 * lost costs no more than a look that comes later.
 */
import { PubSub, Topic } from "@coppice/pubsub"
import { Effect, Schema } from "effect"
import { PageId } from "./Page.ts"
import { TrailId } from "./Trail.ts"

export const TrailEvent = Schema.Union([
  Schema.TaggedStruct("PageCaptured", { page: PageId, url: Schema.String }),
  /** The page was asked what it says of itself: it has answered, or nothing is to be had from it. */
  Schema.TaggedStruct("PageDescribed", { page: PageId }),
  /** Started, renamed, paused or resumed. */
  Schema.TaggedStruct("TrailChanged", { version: Schema.Int }),
  Schema.TaggedStruct("FollowersChanged", {})
])
export type TrailEvent = typeof TrailEvent.Type

/** For those who look at one trail. */
export const TrailTopic = Topic.make("trail", { key: TrailId, event: TrailEvent })

export const Changed = Schema.TaggedStruct("Changed", { id: TrailId })

/** For those who remember something of many trails. */
export const TrailChanges = Topic.make("trails", { event: Changed })

/** Tells both topics: after the commit of the transaction that is open, or now. For domain services, and for nobody else. */
export const teller = Effect.map(
  PubSub.PubSub,
  (pubsub) =>
    (id: TrailId, event: TrailEvent): Effect.Effect<void> =>
      Effect.andThen(
        pubsub.broadcast(TrailTopic(id), event),
        pubsub.broadcast(TrailChanges, Changed.make({ id }))
      ).pipe(Effect.orDie)
)
