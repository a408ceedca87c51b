/** A counter and its supervisor as one would write them by hand on Effect: a queue of messages, a deferred per call. */
import { Deferred, Effect, Exit, Queue } from "effect"
import { type Counter, crashed, type Implementation } from "./Implementation.ts"

type Message =
  | { readonly _tag: "Increment"; readonly by: number; readonly reply: Deferred.Deferred<number> }
  | { readonly _tag: "Reset" }
  | { readonly _tag: "Crash" }

/** Forks children into its scope and forks those again that crash; exits come to one fiber, as they do in OTP. */
const makeSupervisor = Effect.gen(function* () {
  const scope = yield* Effect.scope
  const crashes = yield* Queue.unbounded<Effect.Effect<never>>()
  const start = (child: Effect.Effect<never>) =>
    Effect.map(Effect.forkIn(child, scope), (fiber) =>
      fiber.addObserver((exit) => {
        if (!Exit.hasInterrupts(exit)) Queue.offerUnsafe(crashes, child)
      })
    )
  yield* Queue.take(crashes).pipe(Effect.flatMap(start), Effect.forever, Effect.forkScoped)
  return { start }
})

/** The mailbox outlives a crash, the count does not. A call whose handling crashes waits forever: this is the naive server. */
const makeServer = Effect.map(Queue.unbounded<Message>(), (mailbox) => {
  let started = Deferred.makeUnsafe<void>()
  const life = Effect.gen(function* () {
    let count = 0
    Deferred.doneUnsafe(started, Effect.void)
    while (true) {
      const message = yield* Queue.take(mailbox)
      if (message._tag === "Increment") yield* Deferred.succeed(message.reply, (count += message.by))
      else if (message._tag === "Reset") count = 0
      else return yield* Effect.die(crashed)
    }
  })
  const increment = Effect.fnUntraced(function* (by: number) {
    const reply = yield* Deferred.make<number>()
    yield* Queue.offer(mailbox, { _tag: "Increment", by, reply })
    return yield* Deferred.await(reply)
  })
  const crash = Effect.suspend(() => {
    started = Deferred.makeUnsafe()
    return Effect.andThen(Queue.offer(mailbox, { _tag: "Crash" }), Deferred.await(started))
  })
  return { life, increment, reset: Queue.offer(mailbox, { _tag: "Reset" }), crash }
})

export const bareEffect: Implementation = {
  name: "bare Effect",
  operations: 100_000,
  counter: Effect.gen(function* () {
    const supervisor = yield* makeSupervisor
    const server = yield* makeServer
    yield* supervisor.start(server.life)
    return {
      calls: Effect.fnUntraced(function* (count) {
        for (let i = 0; i < count; i++) yield* server.increment(1)
      }),
      casts: Effect.fnUntraced(function* (count) {
        for (let i = 0; i < count; i++) yield* server.reset
        yield* server.increment(0)
      }),
      crashes: Effect.fnUntraced(function* (count, restarted) {
        for (let i = 0; i < count; i++) {
          yield* server.crash
          restarted()
        }
      })
    } satisfies Counter
  }),
  counters: Effect.fnUntraced(function* (count) {
    const supervisor = yield* makeSupervisor
    for (let i = 0; i < count; i++) {
      const server = yield* makeServer
      yield* supervisor.start(server.life)
    }
  })
}
