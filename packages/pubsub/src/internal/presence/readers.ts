/** Those on this node who follow a topic: each is told of changes in its own time, and no change is lost to a slow one. */
import { Cause, Effect, type Pull } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { type AnyDiff, itemsOf, Net } from "./entry.ts"

/** So many diffs wait for a reader one by one; if it is slower than that, it gets what they come to as one. */
const separateDiffs = 64

abstract class Reader {
  private wake: (() => void) | undefined
  private closed = false

  close(): void {
    this.closed = true
    this.awaken()
  }

  protected awaken(): void {
    const { wake } = this
    this.wake = undefined
    wake?.()
  }

  /** Waits until `take` has something. Ends when the reader is closed and has taken all there was. */
  protected next<A>(take: () => A | undefined): Pull.Pull<A> {
    return Effect.suspend((): Pull.Pull<A> => {
      const taken = take()
      if (taken !== undefined) return Effect.succeed(taken)
      if (this.closed) return Cause.done()
      return Effect.flatMap(Effect.callback<void>(this.onNews), () => this.next(take))
    })
  }

  protected abstract readonly hasNews: boolean

  /** Resumes in its own turn: whoever makes a change does not run it. */
  private readonly onNews = (resume: (effect: Effect.Effect<void>) => void): Effect.Effect<void> | void => {
    // Between looking and waiting the fiber may have yielded to others.
    if (this.hasNews || this.closed) return resume(Effect.void)
    const wake = () => resume(Effect.yieldNow)
    this.wake = wake
    return Effect.sync(() => {
      if (this.wake === wake) this.wake = undefined
    })
  }
}

/** Gets every diff. */
export class DiffReader extends Reader {
  /** Diffs up to this number of the topic are in the list that it began with. */
  readonly since: number
  private readonly topic: string
  private diffs: Array<AnyDiff> = []
  private sum: Net | undefined

  constructor(topic: string, since: number) {
    super()
    this.topic = topic
    this.since = since
  }

  offer(diff: AnyDiff): void {
    if (this.sum === undefined && this.diffs.length >= separateDiffs) {
      this.sum = new Net()
      for (const waiting of this.diffs) this.add(this.sum, waiting)
      this.diffs = []
    }
    if (this.sum === undefined) this.diffs.push(diff)
    else this.add(this.sum, diff)
    this.awaken()
  }

  protected get hasNews(): boolean {
    return this.diffs.length > 0 || this.sum !== undefined
  }

  readonly pull: Pull.Pull<NonEmptyReadonlyArray<AnyDiff>> = this.next(() => this.take())

  private add(sum: Net, diff: AnyDiff): void {
    for (const item of itemsOf(this.topic, diff.leaves)) sum.leave(item)
    for (const item of itemsOf(this.topic, diff.joins)) sum.join(item)
  }

  private take(): NonEmptyReadonlyArray<AnyDiff> | undefined {
    const { diffs, sum } = this
    this.diffs = []
    this.sum = undefined
    if (sum !== undefined) {
      const all = sum.diff()
      return all === undefined ? undefined : [all]
    }
    const [first, ...rest] = diffs
    return first === undefined ? undefined : [first, ...rest]
  }
}

/** Gets what there is when it asks, if that is not what it got before. */
export class ChangeReader extends Reader {
  private changed = true

  raise(): void {
    this.changed = true
    this.awaken()
  }

  protected get hasNews(): boolean {
    return this.changed
  }

  readonly pull: Pull.Pull<true> = this.next(() => {
    if (!this.changed) return undefined
    this.changed = false
    return true as const
  })
}

interface Followed {
  readonly key: unknown
  readonly diffReaders: Set<DiffReader>
  readonly changeReaders: Set<ChangeReader>
  /** How many diffs there were. */
  count: number
  /** What waits to be fetched for, with its number. */
  waiting: Array<readonly [number, AnyDiff]>
  fetching: boolean
}

/** Adds to diffs what `fetch` knows. */
export type FetchFor = (topic: unknown, diffs: ReadonlyArray<AnyDiff>) => Effect.Effect<ReadonlyArray<AnyDiff>>

export class Readers {
  private readonly topics = new Map<string, Followed>()
  private readonly fetchFor: FetchFor | undefined
  private readonly fork: (effect: Effect.Effect<void>) => void

  /** `fork` runs what fetches, as long as the process runs. */
  constructor(fetchFor: FetchFor | undefined, fork: (effect: Effect.Effect<void>) => void) {
    this.fetchFor = fetchFor
    this.fork = fork
  }

  followDiffs(topic: string, key: unknown): DiffReader {
    const followed = this.of(topic, key)
    const reader = new DiffReader(topic, followed.count)
    followed.diffReaders.add(reader)
    return reader
  }

  followChanges(topic: string, key: unknown): ChangeReader {
    const reader = new ChangeReader()
    this.of(topic, key).changeReaders.add(reader)
    return reader
  }

  leave(topic: string, reader: DiffReader | ChangeReader): void {
    const followed = this.topics.get(topic)
    if (followed === undefined) return
    if (reader instanceof DiffReader) followed.diffReaders.delete(reader)
    else followed.changeReaders.delete(reader)
    if (followed.diffReaders.size === 0 && followed.changeReaders.size === 0) this.topics.delete(topic)
  }

  tell(topic: string, diff: AnyDiff): void {
    const followed = this.topics.get(topic)
    if (followed === undefined) return
    followed.count++
    for (const reader of followed.changeReaders) reader.raise()
    if (followed.diffReaders.size === 0) return
    if (this.fetchFor === undefined) {
      for (const reader of followed.diffReaders) reader.offer(diff)
      return
    }
    followed.waiting.push([followed.count, diff])
    if (followed.fetching) return
    followed.fetching = true
    this.fork(this.fetchAll(followed, this.fetchFor))
  }

  close(): void {
    for (const { changeReaders, diffReaders, waiting } of this.topics.values()) {
      // There is no time to fetch for the last ones.
      for (const [count, diff] of waiting) offerTo(diffReaders, count, diff)
      for (const reader of [...changeReaders, ...diffReaders]) reader.close()
    }
  }

  /** One call for all that waits, then for what came meanwhile: the order stays. */
  private fetchAll(followed: Followed, fetchFor: FetchFor): Effect.Effect<void> {
    return Effect.whileLoop({
      while: () => (followed.fetching = followed.waiting.length > 0),
      body: () => {
        const diffs = followed.waiting.slice()
        return fetchFor(
          followed.key,
          diffs.map(([, diff]) => diff)
        ).pipe(Effect.map((fetched) => fetched.map((diff, index) => [diffs[index]?.[0] ?? 0, diff] as const)))
      },
      step: (fetched) => {
        followed.waiting.splice(0, fetched.length)
        for (const [count, diff] of fetched) offerTo(followed.diffReaders, count, diff)
      }
    })
  }

  private of(topic: string, key: unknown): Followed {
    let followed = this.topics.get(topic)
    if (followed === undefined) {
      followed = { key, diffReaders: new Set(), changeReaders: new Set(), count: 0, waiting: [], fetching: false }
      this.topics.set(topic, followed)
    }
    return followed
  }
}

const offerTo = (readers: Iterable<DiffReader>, count: number, diff: AnyDiff): void => {
  for (const reader of readers) if (count > reader.since) reader.offer(diff)
}
