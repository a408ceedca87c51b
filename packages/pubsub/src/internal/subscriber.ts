/**
 * The queue of one subscription.
 *
 * It is an array that grows to its capacity, and is taken as a whole: the consumer gets all that waits in one step.
 */
import { Cause, Effect, type Fiber, type Pull, Stream } from "effect"
import { isReadonlyArrayNonEmpty, type NonEmptyReadonlyArray } from "effect/Array"
import { type Message, type SubscribeOptions, SubscriberTooSlow, type Subscription } from "../Subscription.ts"
import type { Topic } from "../Topic.ts"

/** What waits, as a stream wants it. */
type Waiting<A> = Pull.Pull<NonEmptyReadonlyArray<A>, SubscriberTooSlow>

/** What says that events may have been lost. It is no event itself: it is never counted as lost, and never lost. */
export type Gap = Extract<Message<never>, { readonly _tag: "Gap" }>

/** Takes over subscribers whose hub has stopped. False: so has its own. */
export interface Heir {
  readonly adopt: (subscriber: object) => Effect.Effect<boolean>
}

const defaultCapacity = 1_024

/** How many messages may come in before a consumer that waits for them has its turn, where its capacity is less. */
const burst = 16_384

/** So many, and whoever broadcasts is to let consumers have their turn. */
const crowd = 512

const nobody: ReadonlyArray<() => void> = []

export class Subscriber<in out Event> implements Subscription<Event> {
  /** Where it stands among the subscribers of its topic. */
  index = -1
  /** The one of its hubs that it is in. */
  home: { readonly remove: (subscriber: Subscriber<Event>) => void } | undefined
  /** Who takes it over when its hub has stopped. */
  private readonly heir: Heir | undefined
  readonly topic: Topic<Event>
  private readonly capacity: number
  private readonly policy: NonNullable<SubscribeOptions["policy"]>
  private readonly onDropped: (topic: string, events: number) => void
  private queue: Array<Message<Event>> = []
  /** Where the queue begins: what is before it has slid out. */
  private first = 0
  private missed = 0
  /** One that the queue had no room for. */
  private gap: Gap | undefined
  private ended: "no" | "closed" | "too slow" | "orphaned" = "no"
  /** Consumers that wait for a message. */
  private consumers = nobody
  /** How many consumers were told of a message and have not had their turn yet. */
  private due = 0

  constructor(
    topic: Topic<Event>,
    options: SubscribeOptions | undefined,
    onDropped: (topic: string, events: number) => void,
    heir: Heir | undefined
  ) {
    this.topic = topic
    this.heir = heir
    const capacity = Math.floor(options?.capacity ?? defaultCapacity)
    this.capacity = capacity >= 1 ? capacity : 1
    this.policy = options?.policy ?? "sliding"
    this.onDropped = onDropped
  }

  /**
   * Puts a message into the queue, or does what the policy says where it is full. Says whether much waits only because the
   * consumer, which has nothing else to do, has not had its turn.
   */
  offer(message: Message<Event>): boolean {
    if (this.ended !== "no") return false
    const waiting = this.queue.length - this.first
    // Who only waits for its turn is not slow.
    const full = waiting >= this.capacity && (this.due === 0 || waiting >= burst)
    if (full && !this.makeRoom(message)) return false
    this.queue.push(message)
    if (this.consumers !== nobody) this.awaken()
    return waiting >= crowd && this.due > 0
  }

  /** Who has not taken one gap yet needs no other after it. */
  offerGap(gap: Gap): void {
    if (this.queue.at(-1)?._tag !== "Gap") this.offer(gap)
  }

  /** Ends the messages; what waits is not taken any more. */
  close(): void {
    if (this.ended !== "too slow") this.ended = "closed"
    this.queue = []
    this.first = 0
    this.awaken()
  }

  /** Its hub has stopped. What waits can still be taken. */
  orphan(): void {
    this.home = undefined
    if (this.ended === "no") this.ended = "orphaned"
    this.awaken()
  }

  /** Another hub has taken it in. Says whether it needed one. */
  adopt(): boolean {
    if (this.ended !== "orphaned") return false
    this.ended = "no"
    return true
  }

  get messages(): Stream.Stream<Message<Event>, SubscriberTooSlow> {
    return this.stream((messages) => messages)
  }

  get events(): Stream.Stream<Event, SubscriberTooSlow> {
    return this.stream(eventsOf)
  }

  private stream<A>(
    choose: (messages: ReadonlyArray<Message<Event>>) => ReadonlyArray<A>
  ): Stream.Stream<A, SubscriberTooSlow> {
    return Stream.fromPull(Effect.succeed(Effect.suspend(() => this.pull(choose))))
  }

  private pull<A>(choose: (messages: ReadonlyArray<Message<Event>>) => ReadonlyArray<A>): Waiting<A> {
    const chosen = choose(this.take())
    if (isReadonlyArrayNonEmpty(chosen)) return Effect.succeed(chosen)
    if (this.ended === "closed") return Cause.done()
    if (this.ended === "too slow") {
      return Effect.fail(new SubscriberTooSlow({ topic: this.topic.id, capacity: this.capacity }))
    }
    return Effect.flatMap(this.ended === "orphaned" ? this.takenOver : this.news, () => this.pull(choose))
  }

  /** Takes all that waits. */
  private take(): ReadonlyArray<Message<Event>> {
    const { first, gap, missed, policy, queue } = this
    if (queue.length === 0) return queue
    this.queue = []
    this.first = 0
    this.missed = 0
    this.gap = undefined
    const messages = first === 0 ? queue : queue.slice(first)
    if (missed === 0 && gap === undefined) return messages
    const lost: Array<Message<Event>> = []
    if (missed > 0) lost.push({ _tag: "Lagged", missed })
    if (gap !== undefined) lost.push(gap)
    // Where the hole is: the oldest are missing, or the newest.
    return policy === "sliding" ? [...lost, ...messages] : [...messages, ...lost]
  }

  private makeRoom(message: Message<Event>): boolean {
    if (this.policy === "sliding") {
      const oldest = this.queue[this.first++]
      if (oldest?._tag === "Gap") this.gap = oldest
      else this.lose()
      if (this.first * 2 >= this.queue.length) {
        this.queue = this.queue.slice(this.first)
        this.first = 0
      }
      return true
    }
    if (message._tag === "Gap") {
      this.gap = message
      return false
    }
    if (this.policy === "dropping") {
      this.lose()
      return false
    }
    this.ended = "too slow"
    this.awaken()
    return false
  }

  private lose(): void {
    this.missed++
    this.onDropped(this.topic.id, 1)
  }

  private get takenOver(): Effect.Effect<void> {
    return Effect.flatMap(this.heir?.adopt(this) ?? Effect.succeed(false), (adopted) =>
      adopted ? Effect.void : Effect.die(new Error(`The PubSub of a subscription of ${this.topic.id} has stopped`))
    )
  }

  private get news(): Effect.Effect<void> {
    return Effect.withFiber((fiber) => this.newsFor(fiber))
  }

  /** Ends when there is a message. Whoever sent it does not run the consumer: that gets a turn of its own. */
  private newsFor(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<void> {
    return Effect.callback((resume) => {
      // Others may have had their turn since it was seen that nothing waits.
      if (this.queue.length > 0 || this.ended !== "no") return resume(Effect.void)
      const turn = () => {
        this.due--
        resume(Effect.void)
      }
      const wake = () => {
        this.due++
        fiber.currentDispatcher.scheduleTask(turn, 0)
      }
      this.consumers = [...this.consumers, wake]
      return Effect.sync(() => {
        const others = this.consumers.filter((other) => other !== wake)
        this.consumers = others.length === 0 ? nobody : others
      })
    })
  }

  private awaken(): void {
    const { consumers } = this
    this.consumers = nobody
    for (const wake of consumers) wake()
  }
}

const eventsOf = <Event>(messages: ReadonlyArray<Message<Event>>): ReadonlyArray<Event> => {
  const events: Array<Event> = []
  for (const message of messages) if (message._tag === "Event") events.push(message.event)
  return events
}
