/**
 * What nodes say to each other on a channel that all of them hear: JSON, with the sender's count of its packets.
 *
 * `seq` numbers the packets of messages of one sender, from 1. The other kinds carry the number of the last packet that
 * went before them, so whoever hears one learns whether it missed that.
 */
import type { Message } from "../Adapter.ts"

/** What one node has sent. `hello`: who is there? `alive`: I am. `bye`: I am leaving. */
export type Packet =
  | { readonly kind: "messages"; readonly from: string; readonly seq: number; readonly messages: ReadonlyArray<Entry> }
  | { readonly kind: Sign; readonly from: string; readonly seq: number }

/** What is said without messages. */
export type Sign = "hello" | "alive" | "bye"

/** A message, and to whom, if not to all. */
export interface Entry extends Message {
  readonly to?: string
}

/** A message as it travels; undefined where its schema has let something pass that is not JSON. */
export const encodeEntry = ({ event, topic }: Message, to: string | undefined): string | undefined => {
  try {
    return JSON.stringify(to === undefined ? { topic, event } : { topic, event, to })
  } catch {
    return undefined
  }
}

/** Encoded messages, in one packet. */
export const encodeMessages = (from: string, seq: number, entries: ReadonlyArray<string>): string =>
  `{"kind":"messages","from":${JSON.stringify(from)},"seq":${seq},"messages":[${entries.join(",")}]}`

export const encodeSign = (kind: Sign, from: string, seq: number): string => JSON.stringify({ kind, from, seq })

/** Anybody may write to a channel: what is not a packet is undefined. */
export const decode = (text: string): Packet | undefined => {
  let packet: unknown
  try {
    packet = JSON.parse(text)
  } catch {
    return undefined
  }
  return isPacket(packet) ? packet : undefined
}

const isPacket = (value: unknown): value is Packet =>
  isRecord(value)
  && typeof value["from"] === "string"
  && Number.isSafeInteger(value["seq"])
  && (value["kind"] === "messages"
    ? Number(value["seq"]) >= 1 && Array.isArray(value["messages"]) && value["messages"].every(isEntry)
    : Number(value["seq"]) >= 0 && isSign(value["kind"]))

const isSign = (value: unknown): value is Sign => value === "hello" || value === "alive" || value === "bye"

const isEntry = (value: unknown): value is Entry =>
  isRecord(value)
  && typeof value["topic"] === "string"
  && (value["to"] === undefined || typeof value["to"] === "string")

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null
