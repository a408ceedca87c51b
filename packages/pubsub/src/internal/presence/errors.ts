/** How tracking fails; public as `Presence.AlreadyTracked` and the others. */
import { Cause, Schema } from "effect"

/** The scope tracks this key already. The same key in another scope is another entry. */
export class AlreadyTracked extends Schema.TaggedError<AlreadyTracked>("@coppice/pubsub/Presence/AlreadyTracked")(
  "AlreadyTracked",
  { presence: Schema.String, topic: Schema.String, key: Schema.String }
) {
  override get message(): string {
    return (
      `This scope tracks ${JSON.stringify(this.key)} in ${this.presence} ${this.topic} already: update what track gave, or`
      + " track in a scope of its own (another page, another device)"
    )
  }
}

/** The meta does not fit its schema. */
export class InvalidMeta extends Schema.TaggedError<InvalidMeta>("@coppice/pubsub/Presence/InvalidMeta")(
  "InvalidMeta",
  { presence: Schema.String, topic: Schema.String, key: Schema.String, problem: Schema.String }
) {
  override get message(): string {
    const { key, presence, problem, topic } = this
    return `The meta of ${JSON.stringify(key)} in ${presence} ${topic} cannot be told to other nodes: ${problem}`
  }
}

/** What is to be updated was untracked, or its scope has closed. */
export class NotTracked extends Schema.TaggedError<NotTracked>("@coppice/pubsub/Presence/NotTracked")("NotTracked", {
  presence: Schema.String,
  topic: Schema.String,
  key: Schema.String
}) {
  override get message(): string {
    return `${JSON.stringify(this.key)} is not tracked any more in ${this.presence} ${this.topic}: track it again`
  }
}

export const problemOf = (cause: Cause.Cause<Schema.SchemaError>): string => {
  const [reason] = cause.reasons
  return reason !== undefined && Cause.isFailReason(reason)
    ? `it does not fit its schema: ${reason.error.message}`
    : `it could not be encoded: ${Cause.pretty(cause)}`
}
