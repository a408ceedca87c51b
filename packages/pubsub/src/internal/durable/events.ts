/** Events as texts of JSON, and back. */
import { Cause, Exit, Result, type Schema } from "effect"
import { InvalidEvent } from "../../PubSub.ts"
import type { Topic } from "../../Topic.ts"
import { UndecodableEvent } from "./errors.ts"
import type { Row } from "./store.ts"

/** The text of an event, or why it has none. */
export const encode = <Event>(topic: Topic<Event>, event: Event): Result.Result<string, InvalidEvent> => {
  const json = topic.codec.encode(event)
  if (Exit.isFailure(json)) return refuse(topic, problemOf(json.cause))
  try {
    const text = JSON.stringify(json.value)
    return text === undefined ? refuse(topic, "it is undefined, which JSON does not know") : Result.succeed(text)
  } catch (cause) {
    // A cycle, a `bigint`, or more depth than the stack has.
    return refuse(topic, `it is not JSON: ${String(cause)}`)
  }
}

/** What a row holds, or what is wrong with it. */
export const decode = <Event>(topic: Topic<Event>, row: Row): Result.Result<Event, UndecodableEvent> => {
  const unknown = (problem: string) =>
    Result.fail(new UndecodableEvent({ topic: topic.id, position: row.position, json: row.event, problem }))
  let json: unknown
  try {
    json = JSON.parse(row.event)
  } catch (cause) {
    return unknown(String(cause))
  }
  const event = topic.codec.decode(json)
  return Exit.isSuccess(event) ? Result.succeed(event.value) : unknown(problemOf(event.cause))
}

const refuse = ({ id }: { readonly id: string }, problem: string) =>
  Result.fail(new InvalidEvent({ topic: id, problem }))

const problemOf = (cause: Cause.Cause<Schema.SchemaError>): string => {
  const [reason] = cause.reasons
  return reason !== undefined && Cause.isFailReason(reason) ? reason.error.message : Cause.pretty(cause)
}
