/** What does not compile, and what it says. */
import { DurableTopic, Presence, PubSub, Topic } from "@coppice/pubsub"
import { Schema } from "effect"

const Captured = Schema.TaggedStruct("Captured", { url: Schema.String })
const Removed = Schema.TaggedStruct("Removed", { id: Schema.Int })
const Pages = Topic.make("pages", { key: Schema.Int, event: Schema.Union([Captured, Removed]) })
const Orders = DurableTopic.make("orders", { event: Captured })

// An event written in place is one of the topic's.
export const inline = PubSub.broadcast(Pages(1), { _tag: "Captured", url: "https://example.org" })
export const durable = DurableTopic.publish(Orders, { _tag: "Captured", url: "https://example.org" })

// @expect-error-message: Argument of type '{ _tag: "Captured"; }' is not assignable
export const incomplete = PubSub.broadcast(Pages(1), { _tag: "Captured" })
// @expect-error-message: Type '"Moved"' is not assignable to type '"Captured" | "Removed"'
export const unknown = PubSub.broadcast(Pages(1), { _tag: "Moved" })
// @expect-error-message: Argument of type 'string' is not assignable to parameter of type 'number'
export const wrongKey = Pages("1")
// @expect-error-message: Property 'id' is missing in type 'Family<number
export const noKey = PubSub.subscribe(Pages)
// @expect-error-message: is missing the following properties from type 'Topic
export const notKept = PubSub.broadcast(Orders, { _tag: "Captured", url: "https://example.org" })
// @expect-error-message: Type '"Removed"' is not assignable to type '"Captured"'
export const wrongEvent = DurableTopic.publish(Orders, { _tag: "Removed", id: 1 })

class Viewers extends Presence.Service<Viewers>()("types/Viewers", {
  topic: Schema.Int,
  meta: Schema.Struct({ name: Schema.String })
}) {}

// @expect-error-message: Property 'name' is missing in type '{}'
export const noName = Viewers.track(1, "ada", {})
// @expect-error-message: Argument of type 'string' is not assignable to parameter of type 'number'
export const wrongTopic = Viewers.list("1")
