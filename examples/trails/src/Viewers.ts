/** Who looks at a trail now, by user, on whichever node. Nothing of it is stored. */
import { Presence } from "@coppice/pubsub"
import { Layer, Schema } from "effect"
import { TrailId } from "./Trail.ts"
import type { User } from "./User.ts"

export class Viewers extends Presence.Service<Viewers>()("trails/Viewers", {
  topic: TrailId,
  meta: Schema.Struct({ name: Schema.String })
}) {}

/** What a user is tracked under. */
export const keyOf = ({ id }: User): string => String(id)

/**
 * The process. A few people look at an example, so its nodes may speak to each other every two seconds, and those who were
 * connected to one that was killed are gone within six.
 */
export const layer = Viewers.layerWith({
  broadcastPeriod: "500 millis",
  maxSilentPeriods: 4,
  downPeriod: "5 seconds"
}).pipe(Layer.orDie)
