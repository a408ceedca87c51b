/**
 * Somebody who is tracked on this node.
 *
 * A registration belongs to whoever tracks, not to the process that tells others of it: it lives as long as its scope, and
 * what that process was is taken over by the next one with the ref that it has.
 */
import type { AnyEntry, Item } from "./entry.ts"
import type { Tuple } from "./wire.ts"

/** The process that tells of registrations. */
export interface Teller {
  readonly node: string
  readonly nextRef: () => string
  readonly leave: (registration: Registration) => void
  readonly renewed: (registration: Registration, before: Item) => void
}

export class Registration {
  readonly topic: string
  readonly key: string
  meta: unknown
  /** The meta as other nodes get it. */
  json: Tuple[4]
  ref = ""
  previousRef: string | undefined
  item: Item | undefined
  /** How the process is reached that tells of it, also after its restart. */
  readonly handle: object
  /** Undefined while no process tells of it. */
  teller: Teller | undefined
  ended = false
  private nextRef: (() => string) | undefined

  constructor(handle: object, topic: string, key: string, meta: unknown, json: Tuple[4]) {
    this.handle = handle
    this.topic = topic
    this.key = key
    this.meta = meta
    this.json = json
  }

  /** Gives it to a process. */
  tellBy(teller: Teller): Item {
    this.teller = teller
    this.nextRef = teller.nextRef
    if (this.ref === "") this.ref = teller.nextRef()
    return this.placed(teller.node)
  }

  /** Leaves the old entry and joins with the new one, as one change. */
  renew(meta: unknown, json: Tuple[4]): void {
    const before = this.item
    this.meta = meta
    this.json = json
    if (before === undefined || this.nextRef === undefined) return
    this.previousRef = this.ref
    this.ref = this.nextRef()
    this.placed(before.entry.node)
    this.teller?.renewed(this, before)
  }

  end(): void {
    if (this.ended) return
    this.ended = true
    this.teller?.leave(this)
    this.teller = undefined
  }

  tuple(): Tuple {
    return [this.topic, this.key, this.ref, this.previousRef ?? null, this.json]
  }

  private placed(node: string): Item {
    const { key, meta, previousRef, ref, topic } = this
    const entry: AnyEntry = { ref, previousRef, node, meta, fetched: undefined }
    const item = { topic, key, entry }
    this.item = item
    return item
  }
}
