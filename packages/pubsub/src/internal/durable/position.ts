/**
 * Where an event is in the order of all: the number of its transaction, then its own, both as hexadecimal digits, so that
 * positions have the order of texts.
 */
import { Schema } from "effect"

/** A place in the order of durable events, of all topics. Compares as a text: `a < b`. JSON keeps it as it is. */
export const Position = Schema.String.check(Schema.isPattern(/^[0-7][0-9a-f]{15}-[0-7][0-9a-f]{15}$/)).pipe(
  Schema.brand("@coppice/pubsub/Position")
)
export type Position = typeof Position.Type

/** Before every event. */
export const zero: Position = Position.make("0000000000000000-0000000000000000")

/** The position that two columns make, as a part of a statement. */
export const positionOf = (xid: string, id: string): string =>
  `lpad(to_hex(${xid}), 16, '0') || '-' || lpad(to_hex(${id}), 16, '0')`

/** The two numbers of a position, as texts that the server casts. */
export const numbersOf = (position: Position): readonly [xid: string, id: string] => [
  BigInt(`0x${position.slice(0, 16)}`).toString(),
  BigInt(`0x${position.slice(17)}`).toString()
]
