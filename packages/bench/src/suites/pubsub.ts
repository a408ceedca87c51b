/**
 * Broadcasts from one to many: within a process beside what Effect and Node have, and between processes on one PostgreSQL beside one NOTIFY
 * per event.
 *
 * More events, or fewer idle subscriptions: `npm run bench -- pubsub --set deliveries=10000000 --set idle=100000`.
 */
import { Deferred, Effect, Scope } from "effect"
import { bytesPerUnit, type Case, type Contender, type Figure, perSecond, size, type Suite } from "../Bench.ts"
import type { Bus, StreamTopic, Topic } from "../pubsub/Bus.ts"
import { coppice } from "../pubsub/Coppice.ts"
import { effectPubSub } from "../pubsub/EffectPubSub.ts"
import { emitter } from "../pubsub/Emitter.ts"

/** A measurement of any implementation; the scope ends with the sample. */
type Sample<Of> = (bus: Bus<Of>) => Effect.Effect<number, never, Scope.Scope>

/** Events per second that subscribers have taken, from the first broadcast until the last of them has taken the last event. */
const deliveries = <Of extends Topic>(subscribers: number, consume: (topic: Of) => Topic["consume"]): Sample<Of> =>
  Effect.fnUntraced(function* (bus) {
    const topic = yield* one(bus)
    const events = Math.ceil((yield* size("deliveries")) / subscribers)
    const complete = yield* Deferred.make<void>()
    let left = subscribers
    for (let index = 0; index < subscribers; index++) {
      let next = 0
      yield* consume(topic)((event) => {
        // A figure of events of which some were lost would mean nothing.
        if (event !== next) Deferred.doneUnsafe(complete, Effect.die(new Error(`${event} came for ${next}`)))
        if (++next === events && --left === 0) Deferred.doneUnsafe(complete, Effect.void)
      })
    }
    return yield* perSecond(events * subscribers, Effect.andThen(topic.broadcast(events), Deferred.await(complete)))
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

const rate = (name: string, unit: string, target: number | null): Figure => ({
  name,
  unit,
  higherIsBetter: true,
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
  sizes: { deliveries: 2_000_000, subscriptions: 100_000, idle: 1_000_000 },
  cases: [
    ...locally(1, 2_000_000),
    ...locally(100, 10_000_000),
    ...locally(1_000, 10_000_000),
    compare(rate("subscribe and unsubscribe", "times/s", 200_000), subscribeAndUnsubscribe, [
      coppice,
      effectPubSub,
      emitter
    ]),
    compare(
      { name: "idle subscription, heap", unit: "bytes", higherIsBetter: false, target: 1_000, isolated: true },
      idle,
      [coppice, effectPubSub, emitter]
    )
  ]
}
