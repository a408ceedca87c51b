/**
 * The process that tells other nodes of those who are tracked on this one, and hears of theirs.
 *
 * One fiber merges what arrives, another sends what is due; all state changes in between, in one turn. What has crashed
 * may be wrong, so the next process starts with nothing but the registrations, and asks the other nodes for the rest.
 */
import { Cause, Clock, Context, Effect, type Exit, Latch } from "effect"
import { Process } from "@coppice/supervision"
import type { Shape as PubSub } from "../../PubSub.ts"
import type { Message } from "../../Subscription.ts"
import type { Topic } from "../../Topic.ts"
import type { Item } from "./entry.ts"
import type { Checked } from "./options.ts"
import { reach } from "../reach.ts"
import type { Readers } from "./readers.ts"
import type { Registration, Teller } from "./registration.ts"
import type { Replicas } from "./replicas.ts"
import type { Reports } from "./reports.ts"
import type { Roster } from "./roster.ts"
import type { Told, Tuple, Wire } from "./wire.ts"

/** What the processes of one presence share, those on other nodes of this JavaScript process among them. */
export interface Shared {
  /** How many processes have ended whose registrations wait for the next one. */
  handingOver: number
}

/** How a tracker is reached from outside: itself, or by a handle that outlives it. */
export interface Adopts {
  readonly adopt: (handle: object, registrations: ReadonlyArray<Registration>, from: string) => Effect.Effect<void>
}

interface Wanted {
  incarnation: number
  clock: number
  /** When the node was heard last. */
  heard: number
  /** When it is asked again, and how long after that if there is no answer. */
  askAt: number
  pauseMillis: number
}

interface Parts {
  readonly node: string
  readonly topic: Topic<Wire>
  readonly pubsub: PubSub
  readonly options: Checked
  readonly shared: Shared
  readonly roster: Roster
  readonly replicas: Replicas
  readonly readers: Readers
  readonly reports: Reports
  readonly services: Context.Context<never>
}

/** Of a node that starts twice in one process, the later start has the greater number; another process is another node. */
let incarnations = 0

const mostReplaced = 8

/** How many of those who are tracked are told in one message. */
const partSize = 1_000

/** What is due at shutdown waits so long for a PubSub that is down itself. */
const lastWordsMillis = 1_000

export class Tracker implements Teller {
  /** The id under which others know this node. */
  node: string
  private readonly parts: Parts
  private readonly clockOfTime: Clock.Clock
  private readonly incarnation = ++incarnations
  private readonly prefix: string
  private refs = 0
  private latestMillis = 0
  private readonly own = new Set<Registration>()
  private clock = 0
  /** What others have, or are on their way to have, at this clock. */
  private readonly told = new Map<string, Tuple>()
  /** What has changed since. */
  private joins = new Map<string, Tuple>()
  private leaves = new Set<string>()
  private readonly replaces = new Set<string>()
  private lastSent = Number.NEGATIVE_INFINITY
  private readonly startedAt: number
  /**
   * Others are told nothing before: they would take those for gone who are handed over to this process once the child that
   * it is part of is up. Until then they do not miss it.
   */
  private announceAt: number
  private missed = true
  /** Others have not been told yet that this node has another id. */
  private moved = false
  private askedAllAt = Number.NEGATIVE_INFINITY
  private readonly wanted = new Map<string, Wanted>()
  /** Who has asked, and whether it needs the state. */
  private readonly askers = new Map<string, boolean>()
  private readonly news = Latch.makeUnsafe(false)
  private wakeAt = Number.POSITIVE_INFINITY
  closed = false

  constructor(parts: Parts) {
    this.parts = parts
    this.node = parts.node
    this.clockOfTime = Context.get(parts.services, Clock.Clock)
    this.prefix = `${parts.node.slice(0, 8)}${this.incarnation.toString(36)}`
    this.startedAt = this.now()
    this.announceAt = this.startedAt + (parts.shared.handingOver > 0 ? parts.options.silentMillis : 0)
  }

  // ------------------------------------------------------------------------------------------------------------------
  // those who are tracked here
  // ------------------------------------------------------------------------------------------------------------------

  enter(registration: Registration): void {
    this.parts.roster.change([], [this.register(registration)])
    this.changed()
  }

  /** Takes over what another process was told of. */
  adopt(registrations: ReadonlyArray<Registration>, from: string): void {
    this.takePlaceOf(from)
    const items: Array<Item> = []
    for (const registration of registrations) if (!registration.ended) items.push(this.register(registration))
    this.parts.roster.change([], items)
    this.announceAt = Math.min(this.announceAt, this.now())
    this.wake()
  }

  readonly nextRef = (): string => {
    // A clock that is set back does not make refs older.
    this.latestMillis = Math.max(this.latestMillis, this.clockOfTime.currentTimeMillisUnsafe())
    const millis = this.latestMillis.toString(36).padStart(9, "0")
    return `${millis}-${(this.refs++).toString(36).padStart(6, "0")}-${this.prefix}`
  }

  readonly leave = (registration: Registration): void => {
    const { item } = registration
    if (!this.own.delete(registration) || item === undefined) return
    this.retract(item.entry.ref)
    this.parts.roster.change([item], [])
    this.changed()
  }

  readonly renewed = (registration: Registration, before: Item): void => {
    this.retract(before.entry.ref)
    this.joins.set(registration.ref, registration.tuple())
    const { item } = registration
    this.parts.roster.change([before], item === undefined ? [] : [item])
    this.changed()
  }

  get tracked(): number {
    return this.own.size
  }

  /** How long it may take until this process has heard of the other nodes. */
  get settlesIn(): number {
    return Math.max(0, this.startedAt + this.parts.options.periodMillis - this.now())
  }

  /** PubSub was restarted, and this is another node for the others: with the same people, who have not left. */
  private move(node: string): void {
    const former = this.node
    this.node = node
    this.takePlaceOf(former)
    const before: Array<Item> = []
    const after: Array<Item> = []
    for (const registration of this.own) {
      if (registration.item !== undefined) before.push(registration.item)
      after.push(registration.tellBy(this))
    }
    this.parts.roster.change(before, after)
    this.moved = true
  }

  private takePlaceOf(node: string): void {
    if (node === this.node) return
    // What this node itself said under that id may still arrive.
    this.parts.replicas.bury(node, Number.POSITIVE_INFINITY, this.now())
    this.replaces.add(node)
    const [oldest] = this.replaces
    // Of what was long ago others know nothing any more.
    if (this.replaces.size > mostReplaced && oldest !== undefined) this.replaces.delete(oldest)
  }

  private register(registration: Registration): Item {
    const item = registration.tellBy(this)
    this.own.add(registration)
    this.joins.set(registration.ref, registration.tuple())
    return item
  }

  private retract(ref: string): void {
    if (!this.joins.delete(ref)) this.leaves.add(ref)
  }

  private get dirty(): boolean {
    return this.joins.size > 0 || this.leaves.size > 0
  }

  private changed(): void {
    // What waits for the end of the period needs nobody to wake.
    if (this.wakeAt > this.nextDelta || this.now() >= this.nextDelta) this.wake()
  }

  private get nextDelta(): number {
    return Math.max(this.announceAt, this.lastSent + this.parts.options.periodMillis)
  }

  // ------------------------------------------------------------------------------------------------------------------
  // what arrives
  // ------------------------------------------------------------------------------------------------------------------

  readonly receive = (message: Message<Wire>): void => {
    if (message._tag !== "Event") {
      this.missed = true
      return this.wake()
    }
    const { event, node } = message
    if (node === this.node) return
    if (event._tag === "Ask") {
      const mine = event.known.find(([known]) => known === this.node)
      const needs = mine === undefined || mine[1] !== this.incarnation || mine[2] !== this.clock
      this.askers.set(node, needs || this.askers.get(node) === true)
      return this.wake()
    }
    const now = this.now()
    const follows = this.parts.replicas.merge(node, event, now)
    const [known] = this.parts.replicas.clocks(node)
    const wanted = this.wanted.get(node)
    if (!follows) {
      const { clock, incarnation } = event
      if (wanted === undefined) {
        const pauseMillis = this.parts.options.periodMillis
        this.wanted.set(node, { incarnation, clock, heard: now, askAt: now, pauseMillis })
        this.wake()
      } else {
        wanted.heard = now
        if (!isAt([node, wanted.incarnation, wanted.clock], event)) Object.assign(wanted, { incarnation, clock })
      }
    } else if (wanted !== undefined && isAt(known, wanted)) {
      this.wanted.delete(node)
    }
  }

  // ------------------------------------------------------------------------------------------------------------------
  // what is sent
  // ------------------------------------------------------------------------------------------------------------------

  /** Sends what is due, and sleeps until there is more. */
  readonly turn: Effect.Effect<void> = Effect.suspend(() => {
    this.news.closeUnsafe()
    const { node } = this.parts.pubsub
    if (node !== this.node) this.move(node)
    const now = this.now()
    const late = now - this.wakeAt
    if (late > this.parts.options.periodMillis) this.parts.replicas.forgive(late, now)
    const sends = this.due(now)
    return Effect.andThen(
      Effect.all(sends, { discard: true }),
      Effect.suspend(() => Effect.timeoutOption(this.news.await, Math.max(0, this.wakeAt - this.now())))
    )
  })

  private due(now: number): Array<Effect.Effect<void>> {
    const { options, replicas } = this.parts
    const sends: Array<Effect.Effect<void>> = []
    let next = replicas.tick(now)
    if (now >= this.announceAt) {
      if (this.moved) {
        this.moved = false
        for (const part of this.state()) sends.push(this.everybody(part))
      }
      if (this.dirty) {
        if (now >= this.nextDelta) sends.push(this.broadcast(this.delta(), now))
      } else if (now >= this.lastSent + options.silentMillis) {
        sends.push(this.broadcast({ _tag: "Beat", ...this.header() }, now))
      }
      this.answer(sends)
    }
    next = Math.min(next, this.dirty ? this.nextDelta : Math.max(this.announceAt, this.lastSent + options.silentMillis))
    this.wakeAt = Math.min(next, this.ask(now, sends))
    return sends
  }

  private ask(now: number, sends: Array<Effect.Effect<void>>): number {
    const { options, replicas, reports } = this.parts
    let next = Number.POSITIVE_INFINITY
    for (const [node, wanted] of this.wanted) {
      if (now >= wanted.heard + options.downMillis) {
        this.wanted.delete(node)
        continue
      }
      if (now >= wanted.askAt) {
        wanted.askAt = now + wanted.pauseMillis
        // Its answer may be one that never arrives: too large, or of another version.
        wanted.pauseMillis = Math.min(wanted.pauseMillis * 2, options.silentMillis)
        reports.asked()
        sends.push(this.direct(node, { _tag: "Ask", known: replicas.clocks(node) }))
      }
      next = Math.min(next, wanted.askAt)
    }
    if (!this.missed) return next
    if (now < this.askedAllAt + options.periodMillis) return Math.min(next, this.askedAllAt + options.periodMillis)
    this.missed = false
    this.askedAllAt = now
    sends.push(this.everybody({ _tag: "Ask", known: replicas.clocks() }))
    return next
  }

  /** One who asks is answered alone, several at once. */
  private answer(sends: Array<Effect.Effect<void>>): void {
    const answers = { State: [] as Array<string>, Beat: [] as Array<string> }
    for (const [node, needs] of this.askers) answers[needs && this.clock > 0 ? "State" : "Beat"].push(node)
    this.askers.clear()
    for (const kind of ["State", "Beat"] as const) {
      const [first, ...others] = answers[kind]
      if (first === undefined) continue
      const answer: ReadonlyArray<Told> = kind === "State" ? this.state() : [{ _tag: "Beat", ...this.header() }]
      for (const told of answer) sends.push(others.length === 0 ? this.direct(first, told) : this.everybody(told))
    }
  }

  private state(): ReadonlyArray<Told> {
    const all = [...this.told.values()]
    const parts = Math.max(1, Math.ceil(all.length / partSize))
    return Array.from({ length: parts }, (_, part) => {
      return { _tag: "State", ...this.header(), all: all.slice(part * partSize, (part + 1) * partSize), part, parts }
    })
  }

  private delta(): Told {
    this.clock++
    for (const ref of this.leaves) this.told.delete(ref)
    for (const [ref, tuple] of this.joins) this.told.set(ref, tuple)
    const delta: Told = {
      _tag: "Delta",
      ...this.header(),
      leaves: [...this.leaves],
      joins: [...this.joins.values()]
    }
    this.leaves = new Set()
    this.joins = new Map()
    return delta
  }

  private header() {
    return { incarnation: this.incarnation, clock: this.clock, replaces: [...this.replaces] }
  }

  private broadcast(told: Told, now: number): Effect.Effect<void> {
    this.lastSent = now
    return this.everybody(told)
  }

  // All that is sent has been JSON before, so that it can be encoded.
  private everybody(wire: Wire): Effect.Effect<void> {
    return Effect.orDie(this.parts.pubsub.broadcastNow(this.parts.topic, wire))
  }

  private direct(node: string, wire: Wire): Effect.Effect<void> {
    return Effect.orDie(this.parts.pubsub.directBroadcast(node, this.parts.topic, wire))
  }

  // ------------------------------------------------------------------------------------------------------------------
  // the end
  // ------------------------------------------------------------------------------------------------------------------

  /** Says what is still to be said, and leaves the registrations to the next process, where there will be one. */
  close(exit: Exit.Exit<unknown, unknown>, service: object): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { options, readers, services } = this.parts
      const orderly = exit._tag === "Success" || Cause.hasInterruptsOnly(exit.cause)
      const words: Array<Effect.Effect<void>> = []
      if (this.dirty && this.now() >= this.announceAt) words.push(this.everybody(this.delta()))
      if (options.leaveOnShutdown && orderly) words.push(this.everybody({ _tag: "Bye", ...this.header() }))
      this.closed = true
      readers.close()
      this.handOver(service)
      // With the services of this process, a PubSub that is being stopped as well knows not to have it wait.
      return Effect.all(words, { discard: true }).pipe(
        Effect.provideContext(services),
        Effect.timeoutOption(lastWordsMillis),
        Effect.interruptible,
        Effect.catchCause((cause) => Effect.logDebug("The last words of presence were not sent", cause))
      )
    })
  }

  private handOver(service: object): void {
    const groups = new Map<object, Array<Registration>>()
    for (const registration of this.own) {
      registration.teller = undefined
      const group = groups.get(registration.handle)
      if (group === undefined) groups.set(registration.handle, [registration])
      else group.push(registration)
    }
    this.own.clear()
    // Without a supervisor there is no next one.
    groups.delete(service)
    for (const [handle, registrations] of groups) this.handTo(handle, registrations)
  }

  /** Gives registrations to whatever process the handle reaches, once there is one. */
  handTo(handle: object, registrations: ReadonlyArray<Registration>): void {
    const { services, shared } = this.parts
    shared.handingOver++
    // Not as this process, which is being stopped: it would be refused. Whoever tracks has the handle of the same service.
    const adopting = reach((handle as Adopts).adopt(handle, registrations, this.node)).pipe(
      Effect.onExit(() => Effect.sync(() => shared.handingOver--)),
      Effect.catchCause((cause) => Effect.logDebug("Presence has ended, and with it what is still tracked", cause))
    )
    Effect.runForkWith(Context.omit(Process.Process)(services))(adopting)
  }

  private now(): number {
    return Number(this.clockOfTime.monotonicTimeNanosUnsafe()) / 1e6
  }

  private wake(): void {
    this.news.openUnsafe()
  }
}

const isAt = (
  known: readonly [string, number, number] | undefined,
  wanted: { readonly incarnation: number; readonly clock: number }
): boolean =>
  known !== undefined
  && (known[1] > wanted.incarnation || (known[1] === wanted.incarnation && known[2] >= wanted.clock))
