/** Who is here as this node sees it, by topic and key; and the diff of each change. */
import { type AnyDiff, type AnyEntry, type AnyPresent, type Item, Net } from "./entry.ts"

interface Topic {
  /** By key, then by ref. */
  readonly keys: Map<string, Map<string, AnyEntry>>
  /** All of them as they are now, once somebody has asked. */
  present: AnyPresent | undefined
}

const nobody: AnyPresent = new Map()

export class Roster {
  private readonly topics = new Map<string, Topic>()
  private readonly onDiff: (topic: string, diff: AnyDiff) => void

  constructor(onDiff: (topic: string, diff: AnyDiff) => void) {
    this.onDiff = onDiff
  }

  /** Makes one change, which is one diff for each topic. An item that leaves and joins with the same ref has stayed. */
  change(leaves: Iterable<Item>, joins: Iterable<Item>): void {
    const nets = new Map<string, Net>()
    const netOf = (topic: string) => {
      let net = nets.get(topic)
      if (net === undefined) nets.set(topic, (net = new Net()))
      return net
    }
    for (const item of leaves) if (this.remove(item)) netOf(item.topic).leave(item)
    for (const item of joins) {
      this.add(item)
      netOf(item.topic).join(item)
    }
    for (const [topic, net] of nets) {
      const diff = net.diff()
      if (diff !== undefined) this.onDiff(topic, diff)
    }
  }

  /** All who are here; the same map until somebody comes or leaves. */
  list(topic: string): AnyPresent {
    const found = this.topics.get(topic)
    if (found === undefined) return nobody
    if (found.present === undefined) {
      const present = new Map<string, ReadonlyArray<AnyEntry>>()
      for (const [key, entries] of found.keys) present.set(key, sorted(entries))
      found.present = present
    }
    return found.present
  }

  getByKey(topic: string, key: string): ReadonlyArray<AnyEntry> {
    const entries = this.topics.get(topic)?.keys.get(key)
    return entries === undefined ? [] : sorted(entries)
  }

  private add({ entry, key, topic }: Item): void {
    let found = this.topics.get(topic)
    if (found === undefined) this.topics.set(topic, (found = { keys: new Map(), present: undefined }))
    found.present = undefined
    const entries = found.keys.get(key)
    if (entries === undefined) found.keys.set(key, new Map([[entry.ref, entry]]))
    else entries.set(entry.ref, entry)
  }

  private remove({ entry, key, topic }: Item): boolean {
    const found = this.topics.get(topic)
    const entries = found?.keys.get(key)
    if (found === undefined || entries?.get(entry.ref) !== entry) return false
    found.present = undefined
    entries.delete(entry.ref)
    if (entries.size === 0) found.keys.delete(key)
    if (found.keys.size === 0) this.topics.delete(topic)
    return true
  }
}

// Every node lists them in the same order.
const sorted = (entries: ReadonlyMap<string, AnyEntry>): ReadonlyArray<AnyEntry> =>
  entries.size === 1
    ? [...entries.values()]
    : [...entries.values()].toSorted((one, other) => (one.ref < other.ref ? -1 : one.ref > other.ref ? 1 : 0))
