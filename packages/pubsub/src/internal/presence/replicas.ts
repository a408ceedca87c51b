/**
 * What this node knows of the others.
 *
 * A merge is idempotent, and takes messages in any order: what is older than what is known changes nothing, and what does
 * not follow on it is asked for. A node that is not heard is down, and hidden; heard again, its entries come back as they
 * were; not heard for long, it is forgotten.
 */
import type { Item } from "./entry.ts"
import type { Roster } from "./roster.ts"
import type { Told, Tuple } from "./wire.ts"

interface Replica {
  readonly node: string
  readonly incarnation: number
  clock: number
  /** Monotonic milliseconds. */
  heard: number
  up: boolean
  items: Map<string, Item>
}

/** The first parts of a state whose others are on their way. */
interface Incomplete {
  readonly incarnation: number
  readonly clock: number
  parts: number
  readonly all: Array<Tuple>
  /** When they are of no use any more. */
  readonly until: number
}

/** What `Presence` tells of another node. */
export interface Peer {
  readonly node: string
  readonly incarnation: number
  readonly status: "up" | "down"
  /** How many are tracked there, as far as it is known here. */
  readonly tracked: number
}

export interface Times {
  readonly downMillis: number
  readonly permdownMillis: number
}

type State = Extract<Told, { readonly _tag: "State" }>

type Decode = (tuple: Tuple, node: string) => Item | undefined

const nothing: ReadonlyMap<string, Item> = new Map()

export class Replicas {
  private readonly known = new Map<string, Replica>()
  /** Nodes that have said that they are gone: what of theirs arrives later is not to revive them. */
  private readonly gone = new Map<string, { readonly incarnation: number; readonly until: number }>()
  private readonly partials = new Map<string, Incomplete>()
  private readonly roster: Roster
  private readonly times: Times
  private readonly decode: Decode

  constructor(roster: Roster, times: Times, decode: Decode) {
    this.roster = roster
    this.times = times
    this.decode = decode
  }

  /** Merges what a node tells. False where it does not follow on what is known: its state is to be asked for. */
  merge(node: string, told: Told, now: number): boolean {
    const left = this.gone.get(node)
    if (left !== undefined && told.incarnation <= left.incarnation) return true
    const current = this.known.get(node)
    if (current !== undefined && told.incarnation < current.incarnation) return true
    if (told._tag === "Bye") {
      this.bury(node, told.incarnation, now)
      return true
    }
    const same = current?.incarnation === told.incarnation ? current : undefined
    if (same !== undefined) same.heard = now
    const clock = same?.clock ?? 0
    if (told.clock < clock) return true
    if (told._tag === "State" && told.parts > 1 && (same === undefined || told.clock > clock)) {
      const whole = this.assembled(node, told, now)
      if (typeof whole === "boolean") return whole
      told = whole
    }
    if (told._tag !== "State" && told.clock > clock + (told._tag === "Delta" ? 1 : 0)) return false
    if (same === undefined) this.start(node, told, now)
    else if (told.clock > clock || !same.up || told.replaces.length > 0) this.update(same, told, now)
    return true
  }

  /** A node has gone, up to an incarnation: what of its messages arrives later says nothing any more. */
  bury(node: string, incarnation: number, now: number): void {
    const replica = this.known.get(node)
    this.known.delete(node)
    this.partials.delete(node)
    this.gone.set(node, { incarnation, until: now + this.times.permdownMillis })
    this.roster.change(visible(replica).values(), [])
  }

  /** Hides who was not heard, and forgets who was not heard for long. Answers when to look again. */
  tick(now: number): number {
    let next = Number.POSITIVE_INFINITY
    for (const replica of this.known.values()) {
      const forget = replica.heard + this.times.permdownMillis
      const hide = replica.heard + this.times.downMillis
      if (now >= forget) {
        this.known.delete(replica.node)
        this.roster.change(visible(replica).values(), [])
      } else if (replica.up && now >= hide) {
        replica.up = false
        this.roster.change(replica.items.values(), [])
      }
      if (now < forget) next = Math.min(next, replica.up ? hide : forget)
    }
    for (const [node, { until }] of this.gone) {
      if (now >= until) this.gone.delete(node)
      else next = Math.min(next, until)
    }
    for (const [node, { until }] of this.partials) if (now >= until) this.partials.delete(node)
    return next
  }

  /** This node itself stood still for so long: nobody else is to be taken for down because of that. */
  forgive(millis: number, now: number): void {
    for (const replica of this.known.values()) replica.heard = Math.min(now, replica.heard + millis)
  }

  /** Node, incarnation and clock of all that is known, or of one node. */
  clocks(node?: string): Array<readonly [string, number, number]> {
    const asked = node === undefined ? this.known.values() : [this.known.get(node)]
    const clocks: Array<readonly [string, number, number]> = []
    for (const replica of asked) {
      if (replica !== undefined) clocks.push([replica.node, replica.incarnation, replica.clock])
    }
    return clocks
  }

  peers(): Array<Peer> {
    return Array.from(this.known.values(), ({ incarnation, items, node, up }) => ({
      node,
      incarnation,
      status: up ? "up" : "down",
      tracked: items.size
    }))
  }

  /** The whole state once its last part is here; before that, whether this part follows on those that are. */
  private assembled(node: string, told: State, now: number): State | boolean {
    const { clock, incarnation, part, parts } = told
    if (part === 0) {
      this.partials.set(node, { incarnation, clock, parts: 1, all: [...told.all], until: now + this.times.downMillis })
      return true
    }
    const partial = this.partials.get(node)
    if (partial?.incarnation !== incarnation || partial.clock !== clock || partial.parts < part) return false
    // One that came before.
    if (partial.parts > part) return true
    for (const tuple of told.all) partial.all.push(tuple)
    if (++partial.parts < parts) return true
    this.partials.delete(node)
    return { ...told, all: partial.all }
  }

  /** A node that is new here, or a new incarnation of it: it takes the place of the former one in one change. */
  private start(node: string, told: Told, now: number): void {
    const items = this.itemsAfter(new Map(), told, node)
    const former = [...visible(this.known.get(node)).values()]
    for (const item of this.replaced(told, now)) former.push(item)
    this.known.set(node, { node, incarnation: told.incarnation, clock: told.clock, heard: now, up: true, items })
    this.roster.change(former, items.values())
  }

  private update(replica: Replica, told: Told, now: number): void {
    const former = this.replaced(told, now)
    const follows = told.clock > replica.clock
    replica.clock = told.clock
    if (replica.up && former.length === 0) {
      if (!follows) return
      if (told._tag === "Delta") return this.applyDelta(replica, told)
    }
    for (const item of visible(replica).values()) former.push(item)
    const items = follows ? this.itemsAfter(replica.items, told, replica.node) : replica.items
    replica.items = items
    replica.up = true
    this.roster.change(former, items.values())
  }

  /** Those on nodes that this one has taken the place of. Nothing of these is to come any more. */
  private replaced(told: Told, now: number): Array<Item> {
    const items: Array<Item> = []
    for (const node of told.replaces) {
      const replica = this.known.get(node)
      if (this.gone.has(node) && replica === undefined) continue
      for (const item of visible(replica).values()) items.push(item)
      this.known.delete(node)
      this.gone.set(node, { incarnation: Number.POSITIVE_INFINITY, until: now + this.times.permdownMillis })
    }
    return items
  }

  /** The cost of a delta is its own size, however many there are. */
  private applyDelta(replica: Replica, delta: Extract<Told, { readonly _tag: "Delta" }>): void {
    const leaves: Array<Item> = []
    const joins: Array<Item> = []
    for (const ref of delta.leaves) {
      const item = replica.items.get(ref)
      if (item === undefined) continue
      replica.items.delete(ref)
      leaves.push(item)
    }
    for (const tuple of delta.joins) {
      const item = this.decode(tuple, replica.node)
      if (item === undefined) continue
      replica.items.set(item.entry.ref, item)
      joins.push(item)
    }
    this.roster.change(leaves, joins)
  }

  private itemsAfter(before: ReadonlyMap<string, Item>, told: Told, node: string): Map<string, Item> {
    const items = new Map(told._tag === "State" ? nothing : before)
    if (told._tag === "Delta") for (const ref of told.leaves) items.delete(ref)
    const joins = told._tag === "Delta" ? told.joins : told._tag === "State" ? told.all : []
    for (const tuple of joins) {
      const item = this.decode(tuple, node)
      if (item !== undefined) items.set(item.entry.ref, item)
    }
    return items
  }
}

const visible = (replica: Replica | undefined): ReadonlyMap<string, Item> =>
  replica?.up === true ? replica.items : nothing
