/**
 * The subscriptions of one node, by topic.
 *
 * A broadcast puts its message into the queue of each, and nothing else: it runs nobody's code and waits for nobody.
 */
import { type Cause, Effect, Exit, type Schema, Scope } from "effect"
import type { GapReason, Message as Envelope } from "../Adapter.ts"
import type { Message, SubscribeOptions, Subscription } from "../Subscription.ts"
import type { Codec, Topic } from "../Topic.ts"
import { type Heir, Subscriber } from "./subscriber.ts"

/** What the hub tells of what it could not deliver. */
export interface Reports {
  /** An event of another node is not what a subscription here knows. */
  readonly undecodable: (topic: string, from: string, cause: Cause.Cause<Schema.SchemaError>) => void
  /** A slow subscription has lost so many events. */
  readonly dropped: (topic: string, events: number) => void
}

export class Hub {
  readonly node: string
  stopped = false
  private readonly reports: Reports
  // A topic's events are what its codec says. A topic that has the same id but another codec gets what was broadcast all
  // the same, as everything does that shares a name.
  // oxlint-disable-next-line typescript/no-explicit-any -- a map of topics of all types of events
  private readonly topics = new Map<string, Array<Subscriber<any>>>()

  constructor(node: string, reports: Reports) {
    this.node = node
    this.reports = reports
  }

  subscribe<Event>(
    topic: Topic<Event>,
    options: SubscribeOptions | undefined,
    heir: Heir | undefined
  ): Effect.Effect<Subscription<Event>, never, Scope.Scope> {
    // Not `acquireRelease`, which would keep the whole context of this fiber for as long as the subscription lives.
    return Effect.uninterruptible(
      Effect.flatMap(Scope.Scope, (scope) => {
        const subscriber = new Subscriber(topic, options, this.reports.dropped, heir)
        this.add(subscriber)
        return Effect.as(Scope.addFinalizerExit(scope, removal(subscriber)), subscriber)
      })
    )
  }

  /** Takes in a subscriber whose hub has stopped. Says whether this one has not. */
  adopt(subscriber: object): boolean {
    if (this.stopped) return false
    if (subscriber instanceof Subscriber && subscriber.adopt()) {
      this.add(subscriber)
      subscriber.offer({ _tag: "Gap", reason: "restarted" })
    }
    return true
  }

  /** Lets all subscribers go. */
  stop(): void {
    this.stopped = true
    const { topics } = this
    const all = [...topics.values()]
    topics.clear()
    for (const subscribers of all) for (const subscriber of subscribers) subscriber.orphan()
  }

  /**
   * To the subscribers of this node, except one. Says whether for any of them much waits only because its consumer has not had
   * its turn: then whoever broadcasts is to let others run.
   */
  dispatch(topic: string, event: unknown, except: object | undefined): boolean {
    const subscribers = this.topics.get(topic)
    if (subscribers === undefined) return false
    const message: Message<unknown> = { _tag: "Event", event, node: this.node }
    let crowded = false
    for (const subscriber of subscribers) {
      if (subscriber !== except && subscriber.offer(message)) crowded = true
    }
    return crowded
  }

  /** What another node has sent. */
  receive({ event, topic }: Envelope, from: string): void {
    const subscribers = this.topics.get(topic)
    if (subscribers === undefined) return
    let codec: Codec<unknown> | undefined
    let message: Message<unknown> | undefined
    for (const subscriber of subscribers) {
      if (subscriber.topic.codec !== codec) {
        codec = subscriber.topic.codec
        message = this.decoded(topic, subscriber.topic.codec, event, from)
      }
      if (message !== undefined) subscriber.offer(message)
    }
  }

  /** Tells every subscription that events of other nodes may be missing. */
  gap(reason: GapReason): void {
    const message = { _tag: "Gap", reason } as const
    for (const subscribers of this.topics.values()) for (const subscriber of subscribers) subscriber.offerGap(message)
  }

  count(topic: string): number {
    return this.topics.get(topic)?.length ?? 0
  }

  private decoded(topic: string, codec: Codec<unknown>, json: unknown, from: string): Message<unknown> | undefined {
    const event = codec.decode(json)
    if (Exit.isSuccess(event)) return { _tag: "Event", event: event.value, node: from }
    this.reports.undecodable(topic, from, event.cause)
    return undefined
  }

  private add<Event>(subscriber: Subscriber<Event>): void {
    if (this.stopped) return subscriber.orphan()
    subscriber.home = this
    const { id } = subscriber.topic
    const subscribers = this.topics.get(id)
    if (subscribers === undefined) {
      subscriber.index = 0
      this.topics.set(id, [subscriber])
    } else {
      subscriber.index = subscribers.push(subscriber) - 1
    }
  }

  remove<Event>(subscriber: Subscriber<Event>): void {
    const { id } = subscriber.topic
    const subscribers = this.topics.get(id)
    const last = subscribers?.pop()
    if (subscribers === undefined || last === undefined) return
    if (last !== subscriber) {
      // The last takes its place.
      subscribers[subscriber.index] = last
      last.index = subscriber.index
    }
    if (subscribers.length === 0) this.topics.delete(id)
  }
}

const removal =
  <Event>(subscriber: Subscriber<Event>): (() => Effect.Effect<void>) =>
  () =>
    Effect.sync(() => {
      subscriber.home?.remove(subscriber)
      subscriber.close()
    })
