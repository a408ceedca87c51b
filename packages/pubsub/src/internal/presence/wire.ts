/**
 * What nodes tell each other of who is here.
 *
 * Only the node on which somebody is tracked tells of them. Its clock counts the deltas that it has broadcast in this
 * incarnation, so that a clock names one state, and who misses a delta sees it.
 */
import { Schema } from "effect"
import * as Topic from "../../Topic.ts"

/** Somebody who is tracked: topic, key, ref, the ref before, and the meta as JSON. */
const Tuple = Schema.Tuple([Schema.String, Schema.String, Schema.String, Schema.NullOr(Schema.String), Schema.Json])
export type Tuple = typeof Tuple.Type

const header = {
  /** Counts the starts of presence on a node. */
  incarnation: Schema.Int,
  clock: Schema.Int,
  /** Nodes that this one has taken the place of: those who were tracked there are tracked here, or nowhere. */
  replaces: Schema.Array(Schema.String)
}

const Wire = Schema.Union([
  /** What has changed from the clock before to this one. */
  Schema.TaggedStruct("Delta", { ...header, leaves: Schema.Array(Schema.String), joins: Schema.Array(Tuple) }),
  /** All there are at this clock, or a part of them: adapters do not carry what is too large. Their sender sends them in order. */
  Schema.TaggedStruct("State", { ...header, all: Schema.Array(Tuple), part: Schema.Int, parts: Schema.Int }),
  /** Nothing has changed since this clock. */
  Schema.TaggedStruct("Beat", header),
  /** The node has gone, and all who were tracked there with it. */
  Schema.TaggedStruct("Bye", header),
  /** Asks whoever gets it for its state, unless that is known here: node, incarnation, clock. */
  Schema.TaggedStruct("Ask", {
    known: Schema.Array(Schema.Tuple([Schema.String, Schema.Int, Schema.Int]))
  })
])

/** A message between nodes. */
export type Wire = typeof Wire.Type

/** What a node tells of itself. */
export type Told = Exclude<Wire, { readonly _tag: "Ask" }>

/** The topic of the presence of this name. */
export const topicOf = Topic.make("coppice.presence", { key: Schema.String, event: Wire })
