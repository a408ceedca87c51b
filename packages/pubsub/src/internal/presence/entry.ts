/** What is known of those who are here; public as `Presence.Entry` and `Presence.Diff`. */

/** One of those who are here under a key: a page, a device, a connection. */
export interface Entry<out Meta, out Fetched = never> {
  /** Unique among all nodes, and another one after each update. Refs of one node sort in the order in which they began. */
  readonly ref: string
  /** The ref before the last update. */
  readonly previousRef: string | undefined
  /** The id of the node on which it is tracked. */
  readonly node: string
  readonly meta: Meta
  /** What `fetch` knows of the key; undefined where there is no `fetch`, or where it failed. */
  readonly fetched: Fetched | undefined
}

/** All who are here, by key. Nobody is here under a key that is not in it. */
export type Present<Meta, Fetched = never> = ReadonlyMap<string, ReadonlyArray<Entry<Meta, Fetched>>>

/** One change: who left and who came, by key. An update is in both, with the old entry and with the new one. */
export interface Diff<out Meta, out Fetched = never> {
  readonly joins: Present<Meta, Fetched>
  readonly leaves: Present<Meta, Fetched>
}

export type AnyEntry = Entry<unknown, unknown>
export type AnyPresent = Present<unknown, unknown>
export type AnyDiff = Diff<unknown, unknown>

/** An entry and where it is, as the nodes know it: nothing is fetched yet. */
export interface Item {
  readonly topic: string
  readonly key: string
  readonly entry: AnyEntry
}

/** Sums up changes of one topic: what came and left again, or the other way round, is no change. */
export class Net {
  private readonly came = new Map<string, Item>()
  private readonly went = new Map<string, Item>()

  leave(item: Item): void {
    const { ref } = item.entry
    if (!this.came.delete(ref)) this.went.set(ref, item)
  }

  join(item: Item): void {
    const { ref } = item.entry
    if (!this.went.delete(ref)) this.came.set(ref, item)
  }

  /** Undefined where nothing is different. */
  diff(): AnyDiff | undefined {
    if (this.came.size === 0 && this.went.size === 0) return undefined
    return { joins: byKey(this.came.values()), leaves: byKey(this.went.values()) }
  }
}

const byKey = (items: Iterable<Item>): AnyPresent => {
  const keys = new Map<string, Array<AnyEntry>>()
  for (const { entry, key } of items) {
    const entries = keys.get(key)
    if (entries === undefined) keys.set(key, [entry])
    else entries.push(entry)
  }
  return keys
}

/** The items of a topic in a diff, or in all who are here. */
export function* itemsOf(topic: string, present: AnyPresent): Generator<Item> {
  for (const [key, entries] of present) for (const entry of entries) yield { topic, key, entry }
}
