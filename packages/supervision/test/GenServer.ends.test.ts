// However a handler, a terminate or a caller ends: nobody waits for what will not come.
import { Child, GenServer, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, type Layer, Schedule } from "effect"
import { TestClock } from "effect/testing"

const app = <A>(layer: Layer.Layer<A>, options: Child.Options = {}) =>
  Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("server", layer, options)] })

describe("a handler that breaks the rules", () => {
  const make = (gate: Deferred.Deferred<void>) => {
    class Rude extends GenServer.Service<Rude>()("test/Rude", {
      init: () => Effect.succeed(0),
      calls: {
        wait: (state) => Effect.as(Deferred.await(gate), GenServer.reply(state, state)),
        throws: (): Effect.Effect<GenServer.Reply<number, number>> => {
          throw new Error("thrown")
        },
        // What plain JavaScript can do in spite of the types.
        promises: () => Promise.resolve(1) as unknown as Effect.Effect<GenServer.Reply<number, number>>
      }
    }) {}
    return Rude
  }

  for (const name of ["throws", "promises"] as const) {
    it.effect(`${name}: the caller learns it at once, from an idle server and from the queue of a busy one`, () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        const Rude = make(gate)
        yield* Effect.gen(function* () {
          const words = name === "throws" ? "thrown" : "a handler must return an Effect"
          assert.include((yield* Effect.flip(Rude[name]())).message, words)
          const busy = yield* Effect.forkChild(Rude.wait())
          yield* Effect.yieldNow
          const queued = yield* Effect.forkChild(Effect.flip(Rude[name]()))
          yield* Effect.yieldNow
          yield* Deferred.succeed(gate, undefined)
          yield* Fiber.join(busy)
          assert.include((yield* Fiber.join(queued)).message, words)
          assert.strictEqual(yield* Rude.wait(), 0)
          assert.strictEqual((yield* Tree.get("App/server")).restarts, 2)
        }).pipe(Effect.provide(app(Rude.layer())))
      })
    )
  }
})

describe("a terminate that does not end well", () => {
  const make = (terminate: Effect.Effect<void>) => {
    class Closing extends GenServer.Service<Closing>()("test/Closing", {
      init: () => Effect.succeed(0),
      calls: {
        slow: (state) => Effect.delay(Effect.succeed(GenServer.reply(state, state)), "100 millis"),
        close: () => Effect.succeed(GenServer.stop("normal", { reply: "bye" }))
      },
      terminate: () => terminate
    }) {}
    return Closing
  }

  const close = (terminate: Effect.Effect<void>, stop: boolean) =>
    Effect.gen(function* () {
      const Closing = make(terminate)
      return yield* Effect.gen(function* () {
        yield* Effect.forkChild(Effect.exit(Closing.slow()))
        yield* Effect.yieldNow
        const closing = yield* Effect.forkChild(
          Effect.flip(stop ? Closing.stop() : Closing.close()).pipe(GenServer.withCallTimeout("500 millis"))
        )
        yield* TestClock.adjust("500 millis")
        return (yield* Fiber.join(closing)).reason
        // What hangs is not waited for at the end of the test either.
      }).pipe(Effect.provide(app(Closing.layer(), { shutdown: "brutal_kill" })))
    })

  for (const stop of [false, true]) {
    const whom = stop ? "the caller of stop" : "the caller of a call that stops"
    it.effect(`${whom} is told when it dies`, () =>
      Effect.gen(function* () {
        const reason = yield* close(Effect.die(new Error("no")), stop)
        assert.strictEqual(reason._tag, "Down")
      })
    )
    it.effect(`${whom} waits no longer than its timeout when it hangs`, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* close(Effect.never, stop), new GenServer.Timeout({ millis: 500 }))
      })
    )
  }
})

describe("callers who have left", () => {
  const make = (gate: Deferred.Deferred<void>, capacity: number) => {
    class Busy extends GenServer.Service<Busy>()("test/Busy", {
      init: () => Effect.succeed(0),
      capacity,
      calls: {
        wait: (state) => Effect.as(Deferred.await(gate), GenServer.reply(state, state)),
        add: (state) => Effect.succeed(GenServer.reply(state + 1, state + 1))
      },
      casts: { bump: (state) => Effect.succeed(state + 1) }
    }) {}
    return Busy
  }

  it.effect("do not fill a bounded mailbox, and their messages are not handled", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const Busy = make(gate, 2)
      yield* Effect.gen(function* () {
        const wait = yield* Effect.forkChild(GenServer.withCallTimeout("1 minute")(Busy.wait()))
        yield* Effect.yieldNow
        const late = yield* Effect.forkChild(Effect.flip(Busy.add()))
        const gone = yield* Effect.forkChild(Busy.add())
        yield* Effect.yieldNow
        yield* Fiber.interrupt(gone)
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual((yield* Fiber.join(late)).reason._tag, "Timeout")
        yield* Busy.bump()
        yield* Busy.bump()
        assert.strictEqual((yield* Effect.flip(Busy.bump())).reason._tag, "MailboxFull")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(wait)
        assert.strictEqual(yield* Busy.add(), 3)
      }).pipe(Effect.provide(Busy.layer()))
    })
  )

  it.effect("are forgotten: a thousand of them leave the order and the number of the others as they were", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const Busy = make(gate, 10_000)
      yield* Effect.gen(function* () {
        const wait = yield* Effect.forkChild(Busy.wait())
        yield* Effect.yieldNow
        const stay: Array<Fiber.Fiber<number, GenServer.CallError>> = []
        for (let i = 0; i < 1000; i++) {
          const gone = yield* Effect.forkChild(Busy.add(), { startImmediately: true })
          if (i % 100 === 0) stay.push(yield* Effect.forkChild(Busy.add(), { startImmediately: true }))
          yield* Fiber.interrupt(gone)
        }
        assert.strictEqual((yield* Tree.get("App/server")).mailboxLength, 10)
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(wait)
        assert.deepStrictEqual(yield* Fiber.joinAll(stay), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
      }).pipe(Effect.provide(app(Busy.layer())))
    })
  )
})

describe("very many callers", () => {
  it.effect("may wait at once, and as many may have left", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      class Crowded extends GenServer.Service<Crowded>()("test/Crowded", {
        init: () => Effect.succeed(0),
        calls: {
          wait: (state) => Effect.as(Deferred.await(gate), GenServer.reply(state, state)),
          add: (state) => Effect.succeed(GenServer.reply(state + 1, state + 1))
        }
      }) {}
      yield* Effect.gen(function* () {
        const wait = yield* Effect.forkChild(Crowded.wait())
        yield* Effect.yieldNow
        const come = Effect.forkChild(Crowded.add(), { startImmediately: true })
        const stay: Array<Fiber.Fiber<number, GenServer.CallError>> = []
        for (let i = 0; i < 140_000; i++) stay.push(yield* come)
        for (let i = 0; i < 140_010; i++) yield* Fiber.interrupt(yield* come)
        stay.push(yield* come)
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(wait)
        assert.deepStrictEqual((yield* Fiber.joinAll(stay)).slice(-2), [140_000, 140_001])
      }).pipe(Effect.provide(Crowded.layer()))
    })
  )
})

describe("a server that is down", () => {
  class Echo extends GenServer.Service<Echo>()("test/Echo", {
    init: () => Effect.succeed(0),
    calls: { get: (state) => Effect.succeed(GenServer.reply(state, state)) },
    casts: { add: (state) => Effect.succeed(state + 1) },
    info: (state, message: number) => Effect.succeed(state + message)
  }) {}

  it.effect("has a call through the captured service time out like one through the class; a cast waits", () =>
    Effect.gen(function* () {
      const echo = yield* Echo
      yield* Tree.kill("App/server")
      yield* Effect.yieldNow
      const calls = yield* Effect.forEach([echo.get(), Echo.get()], (call) => Effect.forkChild(Effect.flip(call)))
      const casts = yield* Effect.forEach([echo.add(), Echo.add(), Echo.send(10)], (cast) => Effect.forkChild(cast))
      yield* TestClock.adjust("4999 millis")
      assert.isTrue(calls.every((call) => call.pollUnsafe() === undefined))
      yield* TestClock.adjust("1 millis")
      for (const call of calls) {
        assert.strictEqual((yield* Fiber.join(call)).message, "App/server did not answer within 5000 ms")
      }
      assert.isTrue(casts.every((cast) => cast.pollUnsafe() === undefined))
      yield* TestClock.adjust("15 seconds")
      yield* Fiber.joinAll(casts)
      assert.strictEqual(yield* Echo.get(), 12)
    }).pipe(Effect.provide(app(Echo.layer(), { backoff: Schedule.spaced("20 seconds") })))
  )

  it.effect("what init wants continued is no part of the start: its failure is a crash", () =>
    Effect.gen(function* () {
      let lives = 0
      class Eager extends GenServer.Service<Eager>()("test/Eager", {
        init: () => Effect.sync(() => GenServer.next(++lives, { continue: "on" })),
        calls: { get: (state) => Effect.succeed(GenServer.reply(state, state)) },
        continue: (state) => (state === 1 ? Effect.die(new Error("first life")) : Effect.succeed(state))
      }) {}
      const second = Effect.andThen(Effect.yieldNow, Effect.andThen(Effect.yieldNow, Eager.get()))
      assert.strictEqual(yield* second.pipe(Effect.provide(app(Eager.layer()))), 2)
    })
  )

  it.effect("a state without a prototype is a state", () =>
    Effect.gen(function* () {
      const bare: { readonly a?: number } = Object.create(null)
      class Bare extends GenServer.Service<Bare>()("test/Bare", {
        init: () => Effect.succeed({ bare }),
        calls: { get: (state) => Effect.succeed(GenServer.reply(state.bare.a, state)) }
      }) {}
      assert.isUndefined(yield* Bare.get().pipe(Effect.provide(Bare.layer())))
    })
  )

  it.effect("a call that crashes its server tells the cause also when nothing supervises it", () =>
    Effect.gen(function* () {
      class Lone extends GenServer.Service<Lone>()("test/Lone", {
        init: () => Effect.succeed(0),
        calls: { crash: () => Effect.succeed(GenServer.stop(Cause.die("why"))) }
      }) {}
      const exit = yield* Effect.exit(Lone.crash().pipe(Effect.provide(Lone.layer())))
      assert.include(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), "why")
    })
  )
})
