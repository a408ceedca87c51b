/**
 * Broadcasts from one to many: within a process beside what Effect and Node have, and between processes on one PostgreSQL beside one NOTIFY
 * per event.
 *
 * Within a process alone: `npm run bench -- pubsub --case stream`. More events, or fewer idle subscriptions:
 * `--set deliveries=10000000 --set idle=100000`.
 */
import { Deferred, Effect, References, Scope } from "effect"
import { bytesPerUnit, type Case, type Contender, type Figure, perSecond, size, type Suite } from "../Bench.ts"
import { fresh } from "../jobs/Database.ts"
import type { Implementation, Place, SignalQueue } from "../jobs/Implementation.ts"
import { latencies, medianAndTail, spaced, steady } from "../jobs/Measure.ts"
import { notify, notifyQuickly } from "../jobs/Notify.ts"
import * as Producer from "../jobs/Producer.ts"
import { servers, shared } from "../jobs/Servers.ts"
import type { Bus, StreamTopic, Topic } from "../pubsub/Bus.ts"
import { coppice } from "../pubsub/Coppice.ts"
import { effectPubSub } from "../pubsub/EffectPubSub.ts"
import { emitter } from "../pubsub/Emitter.ts"
import { broadcasting, coppicePubSub } from "../pubsub/Postgres.ts"
import { notifying, quiet, type Writes, writers } from "../pubsub/Writes.ts"

/** A measurement of any implementation; the scope ends with the sample. */
type Sample<Of> = (bus: Bus<Of>) => Effect.Effect<number, never, Scope.Scope>

/** What consumers of a topic have taken, in turn and whole: a figure of events of which some were lost would mean nothing. */
const consumers = Effect.fnUntraced(function* (count: number, consume: Topic["consume"]) {
  let end = 0
  let left = 0
  let complete = Deferred.makeUnsafe<void>()
  for (let index = 0; index < count; index++) {
    let next = 0
    yield* consume((event) => {
      if (event !== next) Deferred.doneUnsafe(complete, Effect.die(new Error(`${event} came for ${next}`)))
      if (++next === end && --left === 0) Deferred.doneUnsafe(complete, Effect.void)
    })
  }
  return {
    /** Waits until all of them have taken what `send` sends, up to before this number. */
    taken: (upTo: number, send: Effect.Effect<unknown>): Effect.Effect<void> =>
      Effect.suspend(() => {
        end = upTo
        left = count
        complete = Deferred.makeUnsafe()
        return Effect.andThen(send, Deferred.await(complete))
      })
  }
})

/** Events per second that subscribers have taken, from the first broadcast until the last of them has taken the last event. */
const deliveries = <Of extends Topic>(subscribers: number, consume: (topic: Of) => Topic["consume"]): Sample<Of> =>
  Effect.fnUntraced(function* (bus) {
    const topic = yield* one(bus)
    const { taken } = yield* consumers(subscribers, consume(topic))
    const events = Math.ceil((yield* size("deliveries")) / subscribers)
    return yield* perSecond(events * subscribers, taken(events, topic.broadcast(0, events)))
  })

/** The same beside a subscription that nobody takes anything from. */
const besideIdle =
  <Of extends Topic>(sample: Sample<Of>): Sample<Of> =>
  (bus) =>
    sample({
      ...bus,
      topics: (count) =>
        Effect.tap(
          bus.topics(count),
          Effect.forEach(({ subscribe }) => subscribe)
        )
    })

/** The same, one event at a time: the next is broadcast when all have taken the last. */
const oneAtATime = (subscribers: number): Sample<Topic> =>
  Effect.fnUntraced(function* (bus) {
    const topic = yield* one(bus)
    const { taken } = yield* consumers(subscribers, topic.consume)
    const events = Math.ceil((yield* size("deliveries")) / subscribers / 10)
    const send = Effect.gen(function* () {
      for (let event = 0; event < events; event++) yield* taken(event + 1, topic.broadcast(event, event + 1))
    })
    return yield* perSecond(events * subscribers, send)
  })

const subscribeAndUnsubscribe: Sample<Topic> = Effect.fnUntraced(function* (bus) {
  const { subscribe } = yield* one(bus)
  const count = yield* size("subscriptions")
  return yield* perSecond(count, Effect.replicateEffect(Effect.scoped(subscribe), count, { discard: true }))
})

/** Bytes of a subscription that waits for events, each with a scope of its own as a connection has it, ten on a topic. */
const idle: Sample<Topic> = Effect.fnUntraced(function* (bus) {
  const count = yield* size("idle")
  const topics = yield* bus.topics(Math.ceil(count / 10))
  return yield* bytesPerUnit(
    "heapUsed",
    count,
    Effect.gen(function* () {
      const scopes = []
      for (const { subscribe } of topics) {
        for (let index = 0; index < 10; index++) {
          const scope = yield* Scope.make()
          yield* Scope.provide(subscribe, scope)
          scopes.push(scope)
        }
      }
      return scopes
    })
  )
})

/** A measurement across threads, on a database of its own; the scope ends with the sample. */
type Across<Of> = (
  implementation: Implementation<Of>,
  place: Place
) => Effect.Effect<ReadonlyArray<number>, never, Scope.Scope>

/** From a broadcast in one thread until it is received in another. */
const latency: Across<SignalQueue> = Effect.fnUntraced(function* (implementation, place) {
  const follow = yield* latencies(implementation, place, yield* implementation.open(place))
  const idle = yield* follow(spaced(yield* size("idleEvents")))
  const busy = yield* follow(steady(yield* size("rate"), yield* size("steady")))
  return [...medianAndTail(idle), ...medianAndTail(busy)]
})

/** Events per second from one thread to another, broadcast as fast as that goes. */
const sustained: Across<SignalQueue> = Effect.fnUntraced(function* (implementation, place) {
  const producer = yield* Producer.make(implementation, place)
  const { work } = yield* implementation.open(place)
  const { taken } = yield* consumers(1, work)
  const send = (first: number, end: number) =>
    taken(end, producer.enqueue({ from: first, at: Array.from({ length: end - first }, () => 0) }))
  const warmUp = 5_000
  yield* send(0, warmUp)
  const events = yield* size("sustained")
  return [yield* perSecond(events, send(warmUp, warmUp + events))]
})

/** Transactions per second of writers that each begin one when their last has committed. */
const writes: Across<Writes> = Effect.fnUntraced(function* (implementation, place) {
  const { settled, write } = yield* implementation.open(place)
  const work = (count: number) =>
    Effect.andThen(
      Effect.forEach(
        Array.from({ length: count }, (_, n) => n),
        write,
        { concurrency: writers, discard: true }
      ),
      settled
    )
  const count = yield* size("writes")
  // As with jobs: what it costs while code is compiled is a figure of its own.
  const first = yield* perSecond(count, work(count))
  return [yield* perSecond(count, work(count)), first]
})

const one = <Of>(bus: Bus<Of>): Effect.Effect<Of, never, Scope.Scope> =>
  Effect.flatMap(bus.topics(1), ([topic]) =>
    topic === undefined ? Effect.die(new Error(`${bus.name} has no topic`)) : Effect.succeed(topic)
  )

const compare = <Of>(
  figure: Figure & Pick<Case, "isolated">,
  sample: Sample<Of>,
  [subject, ...baselines]: readonly [Bus<Of>, ...ReadonlyArray<Bus<Of>>]
): Case => {
  const contender = (bus: Bus<Of>): Contender => ({ name: bus.name, sample: Effect.scoped(sample(bus)) })
  return { ...figure, subject: contender(subject), baselines: baselines.map(contender) }
}

/** The figures of one sample, the first of which names the case. */
const across = <Of>(
  sample: Across<Of>,
  [first, ...also]: readonly [Figure, ...ReadonlyArray<Figure>],
  [subject, ...baselines]: readonly [Implementation<Of>, ...ReadonlyArray<Implementation<Of>>]
): Case => {
  const contender = (implementation: Implementation<Of>): Contender => ({
    name: implementation.name,
    sample: Effect.scoped(
      Effect.gen(function* () {
        const { postgres, redis } = yield* servers
        return yield* sample(implementation, { database: yield* fresh(postgres), redis })
      })
    ).pipe(Effect.provideService(References.MinimumLogLevel, "Warn"))
  })
  return { ...first, also, isolated: true, subject: contender(subject), baselines: baselines.map(contender), rounds: 3 }
}

const rate = (
  name: string,
  unit: string,
  target: number | null,
  ratios: Readonly<Record<string, number>> = {}
): Figure => ({ name, unit, higherIsBetter: true, target, ratios })

const millis = (name: string, target: number | null): Figure => ({
  name,
  unit: "ms",
  higherIsBetter: false,
  target
})

const locally = (subscribers: number, target: number): ReadonlyArray<Case> => {
  const to = `to ${subscribers} ${subscribers === 1 ? "stream" : "streams"}`
  return [
    compare<Topic>(
      rate(to, "deliveries/s", target),
      deliveries(subscribers, ({ consume }) => consume),
      [coppice, effectPubSub, emitter]
    ),
    compare<StreamTopic>(
      rate(`${to}, an effect each`, "deliveries/s", null),
      deliveries(subscribers, ({ consumeEach }) => consumeEach),
      [coppice, effectPubSub]
    )
  ]
}

export const pubsub: Suite = {
  name: "pubsub",
  rounds: 5,
  sizes: {
    deliveries: 2_000_000,
    subscriptions: 100_000,
    idle: 1_000_000,
    idleEvents: 100,
    rate: 1_000,
    steady: 3,
    sustained: 20_000,
    writes: 20_000
  },
  shared,
  notes: [
    "Between threads: one PostgreSQL with fsync, full_page_writes and synchronous_commit on; a fresh database and process per sample.",
    [coppicePubSub, notify, notifyQuickly, broadcasting, quiet, notifying]
      .map(({ configuration, name }) => `- ${name}: ${configuration}`)
      .join("\n")
  ],
  cases: [
    ...locally(1, 2_000_000),
    ...locally(100, 10_000_000),
    ...locally(1_000, 10_000_000),
    compare<Topic>(
      rate("to 100 streams, beside one that takes nothing", "deliveries/s", null),
      besideIdle(deliveries(100, ({ consume }) => consume)),
      [coppice, effectPubSub]
    ),
    compare(rate("to 1000 streams, one event at a time", "deliveries/s", null), oneAtATime(1_000), [
      coppice,
      effectPubSub,
      emitter
    ]),
    compare(rate("subscribe and unsubscribe", "times/s", 200_000), subscribeAndUnsubscribe, [
      coppice,
      effectPubSub,
      emitter
    ]),
    compare(
      { name: "idle subscription, heap", unit: "bytes", higherIsBetter: false, target: 1_000, isolated: true },
      idle,
      [coppice, effectPubSub, emitter]
    ),
    across(
      latency,
      [
        millis("to another thread, idle, median", 3),
        millis("to another thread, idle, p99", null),
        millis("to another thread, steady, median", 3),
        millis("to another thread, steady, p99", null)
      ],
      [coppicePubSub, notify, notifyQuickly]
    ),
    across(
      sustained,
      [rate("to another thread, sustained", "events/s", null, { [notify.name]: 5, [notifyQuickly.name]: 5 })],
      [coppicePubSub, notify, notifyQuickly]
    ),
    across(
      writes,
      [
        rate("transactions that tell of a row", "times/s", null, { [quiet.name]: 0.8 }),
        rate("transactions that tell of a row, by a new process", "times/s", null)
      ],
      [broadcasting, quiet, notifying]
    )
  ]
}
