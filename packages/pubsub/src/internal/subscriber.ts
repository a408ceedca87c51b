/**
 * The queue of one subscription.
 *
 * It is an array that grows to its capacity, and is taken as a whole: the consumer gets all that waits in one step.
 */
import { Cause, Effect, type Pull, Result, Stream } from "effect"
import type { NonEmptyReadonlyArray } from "effect/Array"
import { type Message, type SubscribeOptions, SubscriberTooSlow, type Subscription } from "../Subscription.ts"
import type { Topic } from "../Topic.ts"

/** What waits, as a stream wants it. */
type Waiting<Event> = Pull.Pull<NonEmptyReadonlyArray<Message<Event>>, SubscriberTooSlow>

const defaultCapacity = 1_024

export class Subscriber<in out Event> implements Subscription<Event> {
  /** Where it stands among the subscribers of its topic. */
  index = -1
  readonly topic: Topic<Event>
  private readonly capacity: number
  private readonly policy: NonNullable<SubscribeOptions["policy"]>
  private readonly onDropped: (topic: string, messages: number) => void
  private queue: Array<Message<Event>> = []
  /** Where the queue begins: what is before it has slid out. */
  private first = 0
  private missed = 0
  private ended: "no" | "closed" | "too slow" = "no"
  private wake: (() => void) | undefined

  constructor(
    topic: Topic<Event>,
    options: SubscribeOptions | undefined,
    onDropped: (topic: string, messages: number) => void
  ) {
    this.topic = topic
    this.capacity = Math.max(1, Math.floor(options?.capacity ?? defaultCapacity))
    this.policy = options?.policy ?? "sliding"
    this.onDropped = onDropped
  }

  /** Puts a message into the queue, or does what the policy says where it is full. */
  offer(message: Message<Event>): void {
    if (this.ended !== "no") return
    if (this.queue.length - this.first >= this.capacity && !this.makeRoom()) return
    this.queue.push(message)
    if (this.wake !== undefined) this.awaken()
  }

  /** Ends the messages; what waits is not taken any more. */
  close(): void {
    if (this.ended === "no") this.ended = "closed"
    this.queue = []
    this.first = 0
    this.awaken()
  }

  private makeRoom(): boolean {
    if (this.policy === "fail") {
      this.ended = "too slow"
      this.awaken()
      return false
    }
    this.missed++
    this.onDropped(this.topic.id, 1)
    if (this.policy === "dropping") return false
    this.first++
    if (this.first >= this.capacity) {
      this.queue = this.queue.slice(this.first)
      this.first = 0
    }
    return true
  }

  private awaken(): void {
    const { wake } = this
    this.wake = undefined
    wake?.()
  }

  /** Takes all that waits; undefined where that is nothing. */
  private take(): NonEmptyReadonlyArray<Message<Event>> | undefined {
    const { first, missed, policy, queue } = this
    if (queue.length === 0) return undefined
    this.queue = []
    this.first = 0
    this.missed = 0
    const waiting = first === 0 ? queue : queue.slice(first)
    if (missed > 0) {
      const lagged = { _tag: "Lagged", missed } as const
      // Where the hole is: the oldest are missing, or the newest.
      if (policy === "sliding") waiting.unshift(lagged)
      else waiting.push(lagged)
    }
    // It was not empty.
    return waiting as unknown as NonEmptyReadonlyArray<Message<Event>>
  }

  private pull(): Waiting<Event> {
    const waiting = this.take()
    if (waiting !== undefined) return Effect.succeed(waiting)
    if (this.ended === "closed") return Cause.done()
    if (this.ended === "too slow") {
      return Effect.fail(new SubscriberTooSlow({ topic: this.topic.id, capacity: this.capacity }))
    }
    return Effect.flatMap(Effect.callback<void>(this.onNews), () => this.pull())
  }

  /** Resumes in its own turn: whoever broadcasts does not run it. */
  private readonly onNews = (resume: (effect: Effect.Effect<void>) => void): Effect.Effect<void> => {
    const wake = () => resume(Effect.yieldNow)
    this.wake = wake
    return Effect.sync(() => {
      if (this.wake === wake) this.wake = undefined
    })
  }

  get messages(): Stream.Stream<Message<Event>, SubscriberTooSlow> {
    return Stream.fromPull(Effect.sync(() => Effect.suspend(() => this.pull())))
  }

  get events(): Stream.Stream<Event, SubscriberTooSlow> {
    return Stream.filterMap(this.messages, (message) =>
      message._tag === "Event" ? Result.succeed(message.event) : Result.failVoid
    )
  }
}
