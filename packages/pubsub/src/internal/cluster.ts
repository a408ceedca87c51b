/**
 * What a node knows of the others on a channel that all of them hear: who is there, and whether something was missed.
 *
 * Nothing here waits, measures time or reads from anywhere. What is heard goes in with the time, in milliseconds, and what
 * follows from it comes out of the receiver: messages at most once and in the order of their sender, and a gap before what
 * came after a hole.
 *
 * - A packet whose number was heard before is dropped. So whoever does not know whether a packet has left may send it again.
 * - A number that was left out is a hole. A hole at the end is found by the next sign of the sender, which follows soon
 *   after its messages (`pause`).
 */
import type { Receiver, Status } from "../Adapter.ts"
import { decode, encodeMessages, encodeSign, type Entry, type Sign } from "./envelope.ts"

export interface Options {
  /** A node that is quiet says that it is there this often. Who was not heard for three times as long is gone. */
  readonly heartbeatMillis: number
}

/** What was heard, for whoever has to answer: `own` is a packet of this node, so this node hears. */
export type Heard = "own" | "hello" | "packet" | "nothing"

interface Peer {
  /** The number of the last packet that was heard, or is known to be lost. */
  last: number
  heardAt: number
  here: boolean
}

/** Heartbeats that a node may miss. */
const missedBeats = 3

/** After messages the first sign follows after so long, or at the heartbeat. */
const firstPauseMillis = 1_000

/** How long a node has to answer a hello: after that, one that is not known is new. */
const answerMillis = 2_000

/** How long a node that is gone is remembered. One that was frozen may send again what was heard before. */
const rememberedMillis = 24 * 60 * 60 * 1_000

export class Cluster {
  private readonly node: string
  /** How this node's packets begin. */
  private readonly own: string
  private readonly receiver: Receiver
  private readonly heartbeatMillis: number
  private readonly peers = new Map<string, Peer>()
  private status: Status = "disconnected"
  private wasConnected = false
  private settledAt = Number.POSITIVE_INFINITY
  /** The number of this node's last packet. */
  private sent = 0
  /** Whether the last number stands for messages that were given up, and nobody was told of it. */
  private skipped = false
  /** Whether there were messages since the last `pause`. */
  private busy = false
  private pauseMillis = 0

  constructor(node: string, receiver: Receiver, { heartbeatMillis }: Options) {
    this.node = node
    this.own = encodeMessages(node, 1, []).split('"seq"', 1)[0] ?? ""
    this.receiver = receiver
    this.heartbeatMillis = heartbeatMillis
  }

  // ------------------------------------------------------------------------------------------------------------------
  // what this node says
  // ------------------------------------------------------------------------------------------------------------------

  /** The next packet, of messages that are encoded. Packets and signs must leave in the order of their making. */
  packet(entries: ReadonlyArray<string>): string {
    this.busy = true
    this.skipped = false
    this.sent++
    return encodeMessages(this.node, this.sent, entries)
  }

  /** The number of the last packet. */
  get last(): number {
    return this.sent
  }

  sign(kind: Sign): string {
    this.skipped = false
    return encodeSign(kind, this.node, this.sent)
  }

  /** Messages that were to be in the next packet are given up: the others will find a hole. */
  skip(): void {
    this.busy = true
    if (this.skipped) return
    this.skipped = true
    this.sent++
  }

  /** How long to wait until the next sign of life, in milliseconds: not long after messages, then ever longer. */
  pause(): number {
    const next = this.busy ? firstPauseMillis : this.pauseMillis * 2
    this.busy = false
    this.pauseMillis = Math.min(Math.max(next, firstPauseMillis), this.heartbeatMillis)
    return this.pauseMillis
  }

  // ------------------------------------------------------------------------------------------------------------------
  // what this node hears
  // ------------------------------------------------------------------------------------------------------------------

  /** The channel is heard from now on; a hello should follow. Tells a gap, unless this is the first time. */
  connected(now: number): void {
    this.settledAt = now + answerMillis
    // Nobody has left because this node did not hear.
    for (const peer of this.peers.values()) if (peer.here) peer.heardAt = now
    if (this.wasConnected) this.receiver.gap("disconnected")
    this.wasConnected = true
    this.tell(this.presentStatus())
  }

  /** The channel is not heard any more. */
  disconnected(): void {
    this.settledAt = Number.POSITIVE_INFINITY
    this.tell("disconnected")
  }

  /** A packet, or something that somebody else wrote to the channel. */
  receive(text: string, now: number): Heard {
    // Not parsed: a node that broadcasts much hears all of it.
    if (text.startsWith(this.own)) return "own"
    const packet = decode(text)
    if (packet === undefined) return "nothing"
    const { from, kind, seq } = packet
    if (from === this.node) return "own"
    /** The last packet before this. */
    const before = kind === "messages" ? seq - 1 : seq
    const peer = this.peers.get(from) ?? this.meet(from, before, now)
    peer.heardAt = now
    peer.here = kind !== "bye"
    if (this.status !== "disconnected") this.tell(peer.here ? "clustered" : this.presentStatus())
    // Also just after the gap of `connected`: the other may have given up what it was to send since then.
    if (before > peer.last) this.receiver.gap("missed")
    if (seq > peer.last) {
      peer.last = seq
      if (kind === "messages") this.deliver(packet.messages, from)
    }
    return kind === "hello" ? "hello" : "packet"
  }

  /** Looks who was silent for too long. To be called with every heartbeat. */
  tick(now: number): void {
    if (this.status === "disconnected") return
    for (const [node, peer] of this.peers) {
      const silent = now - peer.heardAt
      if (silent > this.heartbeatMillis * missedBeats) peer.here = false
      if (silent > rememberedMillis) this.peers.delete(node)
    }
    this.tell(this.presentStatus())
  }

  private deliver(messages: ReadonlyArray<Entry>, from: string): void {
    for (const message of messages) {
      if (message.to === undefined || message.to === this.node) this.receiver.deliver(message, from)
    }
  }

  /** What a node said before this one listened is not missed. Of one that came later everything should have been heard. */
  private meet(node: string, before: number, now: number): Peer {
    const peer = { last: now < this.settledAt ? before : 0, heardAt: now, here: true }
    this.peers.set(node, peer)
    return peer
  }

  private presentStatus(): Status {
    for (const peer of this.peers.values()) if (peer.here) return "clustered"
    return "solitary"
  }

  private tell(status: Status): void {
    if (status === this.status) return
    this.status = status
    this.receiver.status(status)
  }
}
