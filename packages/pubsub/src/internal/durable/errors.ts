/** What may be wrong with what was written before. */
import { Schema } from "effect"
import { Position } from "./position.ts"

/** An event that this code does not know: written by newer or older code. Newer code may: it is still there. */
export class UndecodableEvent extends Schema.TaggedError<UndecodableEvent>("@coppice/pubsub/UndecodableEvent")(
  "UndecodableEvent",
  {
    topic: Schema.String,
    position: Position,
    /** The event as it was written, a text of JSON. */
    json: Schema.String,
    problem: Schema.String
  }
) {
  override get message(): string {
    return (
      `The event of ${this.topic} at ${this.position} is not what this code knows (${this.problem}): deploy code that`
      + " does, or say what becomes of such events (onUndecodable)"
    )
  }
}

/** Events that were older than their topic keeps them have been removed before they were read. */
export class EventsPruned extends Schema.TaggedError<EventsPruned>("@coppice/pubsub/EventsPruned")("EventsPruned", {
  topic: Schema.String,
  /** What was read last. */
  after: Position,
  /** The last that was removed. */
  until: Position
}) {
  override get message(): string {
    return (
      `Events of ${this.topic} after ${this.after} have been removed before they were read, the last one at`
      + ` ${this.until}: make good for what was missed and go on (onPruned, or DurableTopic.setPosition), and keep`
      + " events longer than readers need (retention)"
    )
  }
}

/** An option that cannot be followed. */
export class InvalidOption extends Schema.TaggedError<InvalidOption>("@coppice/pubsub/InvalidOption")("InvalidOption", {
  option: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `Durable topics are not possible with this ${this.option}: it ${this.problem}`
  }
}
