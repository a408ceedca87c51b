import { Child, GenServer, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { Model } from "effect/schema"
import { TestClock } from "effect/testing"

class Refused extends Schema.TaggedError<Refused>()("Refused", { by: Schema.Finite }) {}

class Counter extends GenServer.Service<Counter>()("test/Counter", {
  init: (start: number) => Effect.succeed({ count: start }),
  calls: {
    increment: (state, by: number) =>
      by < 0
        ? Effect.fail(new Refused({ by }))
        : Effect.succeed(GenServer.reply(state.count + by, { count: state.count + by })),
    crash: (_state, message: string) => Effect.die(new Error(message)),
    slow: (state) => Effect.delay(Effect.succeed(GenServer.reply("done", state)), "10 seconds")
  },
  casts: {
    reset: () => Effect.succeed({ count: 0 }),
    fail: () => Effect.fail("a cast has nobody to tell")
  }
}) {}

const supervised = (options: Child.Options = {}) =>
  Supervisor.layer("App", {
    strategy: "one_for_one",
    children: [Child.layer("counter", Counter.layer(10), options)]
  })

const reasonOf = (error: GenServer.CallError | Refused) =>
  error instanceof GenServer.CallError ? error.reason : undefined

describe("GenServer calls and casts", () => {
  it.effect("answers calls one at a time, casts and calls of one sender in order", () =>
    Effect.gen(function* () {
      const replies = yield* Effect.forEach([1, 2, 3], (n) => Counter.increment(n), { concurrency: 3 })
      assert.deepStrictEqual(replies, [1, 3, 6])
      yield* Counter.reset()
      assert.strictEqual(yield* Counter.increment(5), 5)
    }).pipe(Effect.provide(Counter.layer(0)))
  )

  it.effect("a typed failure is the caller's and leaves the state alone", () =>
    Effect.gen(function* () {
      assert.instanceOf(yield* Effect.flip(Counter.increment(-1)), Refused)
      assert.strictEqual(yield* Counter.increment(0), 7)
    }).pipe(Effect.provide(Counter.layer(7)))
  )

  it.effect("a call times out after five seconds, to the millisecond, and the late reply is dropped", () =>
    Effect.gen(function* () {
      const call = yield* Effect.forkChild(Effect.flip(Counter.slow()))
      yield* TestClock.adjust("4999 millis")
      assert.isUndefined(call.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(call)).message, "test/Counter did not answer within 5000 ms")
      const waiting = yield* Effect.forkChild(Counter.increment(1))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* Fiber.join(waiting), 1)
    }).pipe(Effect.provide(Counter.layer(0)))
  )

  it.effect("withCallTimeout sets the timeout of the calls inside, shorter and longer ones side by side", () =>
    Effect.gen(function* () {
      const long = yield* Effect.forkChild(GenServer.withCallTimeout("1 minute")(Counter.slow()))
      yield* Effect.yieldNow
      const short = yield* Effect.forkChild(Effect.flip(GenServer.withCallTimeout("1 second")(Counter.increment(1))))
      const middle = yield* Effect.forkChild(Effect.flip(Counter.increment(1)))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(reasonOf(yield* Fiber.join(short)), new GenServer.Timeout({ millis: 1000 }))
      assert.isUndefined(middle.pollUnsafe())
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(reasonOf(yield* Fiber.join(middle)), new GenServer.Timeout({ millis: 5000 }))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* Fiber.join(long), "done")
    }).pipe(Effect.provide(Counter.layer(0)))
  )

  it.effect("a question whose caller left or timed out before its turn is never handled", () =>
    Effect.gen(function* () {
      const slow = yield* Effect.forkChild(GenServer.withCallTimeout("1 minute")(Counter.slow()))
      yield* Effect.yieldNow
      const left = yield* Effect.forkChild(Counter.increment(100))
      const late = yield* Effect.forkChild(Effect.flip(Counter.increment(1000)))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(left)
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(slow)
      yield* Fiber.join(late)
      assert.strictEqual(yield* Counter.increment(0), 0)
    }).pipe(Effect.provide(Counter.layer(0)))
  )

  it.effect("a handler that calls its own server gets an error at once", () =>
    Effect.gen(function* () {
      let callSelf: Effect.Effect<number, GenServer.CallError> = Effect.succeed(0)
      class Narcissus extends GenServer.Service<Narcissus>()("test/Narcissus", {
        init: () => Effect.succeed(0),
        calls: {
          look: (state) => Effect.map(Effect.flip(callSelf), (error) => GenServer.reply(error.message, state)),
          get: (state) => Effect.succeed(GenServer.reply(state, state))
        }
      }) {}
      yield* Effect.gen(function* () {
        callSelf = (yield* Narcissus).get()
        assert.include(yield* Narcissus.look(), "called by its own handler")
        assert.strictEqual(yield* Narcissus.get(), 0)
      }).pipe(Effect.provide(Narcissus.layer()))
    })
  )

  it.effect("a thousand servers may cast to each other in a chain without running out of stack", () =>
    Effect.gen(function* () {
      const scope = yield* Effect.scope
      const done = yield* Deferred.make<number>()
      let next: (n: number) => Effect.Effect<void> = (n) => Effect.asVoid(Deferred.succeed(done, n))
      for (let i = 0; i < 1000; i++) {
        const forward = next
        class Link extends GenServer.Service<Link>()(`test/Link`, {
          init: () => Effect.succeed(0),
          casts: { pass: (state, n: number) => Effect.as(forward(n + 1), state) }
        }) {}
        const link = Context.get(yield* Layer.buildWithScope(Layer.fresh(Link.layer()), scope), Link)
        next = (n) => link.pass(n)
      }
      yield* next(0)
      assert.strictEqual(yield* Deferred.await(done), 1000)
    })
  )
})

describe("GenServer death", () => {
  it.effect("every waiting caller learns of the server's death at once, with the cause", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      class Fragile extends GenServer.Service<Fragile>()("test/Fragile", {
        init: () => Effect.succeed(0),
        calls: {
          crash: () => Effect.andThen(Deferred.await(gate), Effect.die(new Error("boom"))),
          get: (state) => Effect.succeed(GenServer.reply(state, state))
        }
      }) {}
      yield* Effect.gen(function* () {
        const crash = yield* Effect.forkChild(Effect.flip(Fragile.crash()))
        yield* Effect.yieldNow
        const queued = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(Effect.flip(Fragile.get())))
        yield* Effect.yieldNow
        yield* Deferred.succeed(gate, undefined)
        for (const caller of [crash, ...queued]) {
          const error = yield* Fiber.join(caller)
          assert.strictEqual(error.reason._tag, "Down")
          assert.include(error.message, "boom")
        }
        assert.strictEqual((yield* Effect.flip(Fragile.get())).reason._tag, "Down")
      }).pipe(Effect.provide(Fragile.layer()))
    })
  )

  it.effect("supervised, the next call finds a fresh server, by the key and by the captured service", () =>
    Effect.gen(function* () {
      const counter = yield* Counter
      assert.strictEqual(yield* counter.increment(5), 15)
      const error = yield* Effect.flip(Counter.crash("boom"))
      assert.strictEqual(error.message, "App/counter ended before it answered: boom")
      assert.strictEqual(yield* counter.increment(1), 11)
      assert.strictEqual(yield* Counter.increment(1), 12)
      assert.strictEqual((yield* Tree.get("App/counter")).restarts, 1)
    }).pipe(Effect.provide(supervised()))
  )

  it.effect("a cast that fails is the server's crash", () =>
    Effect.gen(function* () {
      yield* Counter.fail()
      assert.strictEqual(yield* Counter.increment(0), 10)
      const { crashes } = yield* Tree.get("App/counter")
      assert.strictEqual(Cause.squash(crashes[0]?.cause ?? Cause.empty), "a cast has nobody to tell")
    }).pipe(Effect.provide(supervised()))
  )

  it.effect("while the server restarts a call waits within its timeout", () =>
    Effect.gen(function* () {
      const starts = { count: 0 }
      class Slow extends GenServer.Service<Slow>()("test/Slow", {
        init: () => (starts.count++ === 0 ? Effect.succeed(0) : Effect.delay(Effect.succeed(1), "3 seconds")),
        calls: {
          get: (state) => Effect.succeed(GenServer.reply(state, state)),
          crash: () => Effect.die("crash")
        }
      }) {}
      yield* Effect.gen(function* () {
        yield* Effect.flip(Slow.crash())
        const patient = yield* Effect.forkChild(Slow.get())
        const hasty = yield* Effect.forkChild(Effect.flip(GenServer.withCallTimeout("2 seconds")(Slow.get())))
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* Fiber.join(hasty)).message, "App/slow did not answer within 2000 ms")
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(patient), 1)
      }).pipe(
        Effect.provide(
          Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("slow", Slow.layer())] })
        )
      )
    })
  )

  it.effect("when the supervisor gives up, a waiting call ends at once with a defect that names the child", () =>
    Effect.gen(function* () {
      class Doomed extends GenServer.Service<Doomed>()("test/Doomed", {
        init: () => Effect.succeed(0),
        calls: { crash: () => Effect.die("crash"), get: (state) => Effect.succeed(GenServer.reply(state, state)) }
      }) {}
      yield* Effect.gen(function* () {
        yield* Effect.flip(Doomed.crash())
        const exit = yield* Effect.exit(Doomed.get())
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, Child.ChildUnavailable)
        assert.include(String(defect), "App/doomed is not available: its supervisor gave up restarting")
      }).pipe(
        Effect.provide(
          Supervisor.layer("App", {
            strategy: "one_for_one",
            maxRestarts: 0,
            children: [Child.layer("doomed", Doomed.layer())]
          })
        )
      )
    })
  )
})

describe("GenServer stop and terminate", () => {
  const make = (log: Array<string>) => {
    class Stopper extends GenServer.Service<Stopper>()("test/Stopper", {
      init: () => Effect.sync(() => (log.push("init"), { n: 0 })),
      calls: {
        add: (state) => Effect.succeed(GenServer.reply(state.n + 1, { n: state.n + 1 })),
        bye: () => Effect.succeed(GenServer.stop("normal", { reply: "bye" })),
        silent: () => Effect.succeed(GenServer.stop()),
        crash: () => Effect.succeed(GenServer.stop(Cause.die(new Error("on purpose"))))
      },
      terminate: (state, exit) =>
        Effect.sync(() => void log.push(`terminate ${state.n} ${Exit.isSuccess(exit) ? exit.value : "failure"}`))
    }) {}
    return Stopper
  }
  const app = <A>(child: Layer.Layer<A>, restart: Child.Restart) =>
    Supervisor.layer("App", { strategy: "one_for_one", children: [Child.layer("stopper", child, { restart })] })

  it.effect("stop with a reply runs terminate first, then replies; a permanent child starts again", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const Stopper = make(log)
      yield* Effect.gen(function* () {
        yield* Stopper.add()
        const reply = yield* Effect.tap(Stopper.bye(), () => Effect.sync(() => log.push("replied")))
        assert.strictEqual(reply, "bye")
        assert.strictEqual(yield* Stopper.add(), 1)
        assert.deepStrictEqual(log, ["init", "terminate 1 normal", "replied", "init"])
      }).pipe(Effect.provide(app(Stopper.layer(), "permanent")))
    })
  )

  it.effect("stop without a reply fails the caller even for a normal reason", () =>
    Effect.gen(function* () {
      const Stopper = make([])
      const error = yield* Effect.flip(Stopper.silent()).pipe(Effect.provide(Stopper.layer()))
      assert.strictEqual(error.message, "test/Stopper ended before it answered: it stopped normally")
    })
  )

  it.effect("a transient server that stops normally is finished, and calls to it end with a defect", () =>
    Effect.gen(function* () {
      const Stopper = make([])
      yield* Effect.gen(function* () {
        yield* Stopper.bye()
        yield* Effect.yieldNow
        const exit = yield* Effect.exit(Stopper.add())
        assert.include(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), "it has finished")
        assert.strictEqual((yield* Tree.get("App/stopper")).status, "finished")
      }).pipe(Effect.provide(app(Stopper.layer(), "transient")))
    })
  )

  it.effect("a transient server that stops with a cause is restarted, and the caller is told the cause", () =>
    Effect.gen(function* () {
      const Stopper = make([])
      yield* Effect.gen(function* () {
        assert.include((yield* Effect.flip(Stopper.crash())).message, "on purpose")
        assert.strictEqual(yield* Stopper.add(), 1)
      }).pipe(Effect.provide(app(Stopper.layer(), "transient")))
    })
  )

  it.effect("terminate runs with the last state when the supervisor stops the server", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const Stopper = make(log)
      yield* Stopper.add().pipe(Effect.provide(app(Stopper.layer(), "permanent")))
      assert.deepStrictEqual(log, ["init", "terminate 1 failure"])
    })
  )

  it.effect("stop from outside waits for the messages before it and for terminate", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const Stopper = make(log)
      yield* Effect.gen(function* () {
        yield* Effect.forkChild(Stopper.add())
        yield* Effect.yieldNow
        yield* Stopper.stop("shutdown")
        assert.deepStrictEqual(log, ["init", "terminate 1 shutdown"])
        assert.strictEqual((yield* Effect.flip(Stopper.add())).reason._tag, "Down")
      }).pipe(Effect.provide(Stopper.layer()))
    })
  )

  it.effect("an init that fails is the layer's typed failure", () =>
    Effect.gen(function* () {
      class Never extends GenServer.Service<Never>()("test/Never", {
        init: (by: number) => Effect.fail(new Refused({ by })),
        calls: {}
      }) {}
      const error = yield* Effect.flip(Layer.build(Never.layer(3)))
      assert.deepStrictEqual(error, new Refused({ by: 3 }))
    })
  )
})

describe("GenServer continue, info, idle and capacity", () => {
  it.effect("continue runs before any queued message and after the reply", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      class Steps extends GenServer.Service<Steps>()("test/Steps", {
        init: () => Effect.succeed(GenServer.next(0, { continue: "init" })),
        calls: {
          go: (state, name: string) =>
            Effect.sync(() => (log.push(name), GenServer.reply(name, state, { continue: name })))
        },
        continue: (state, name: string) => Effect.sync(() => (log.push(`continue ${name}`), state + 1))
      }) {}
      yield* Effect.gen(function* () {
        const steps = yield* Steps
        yield* Effect.forEach(["a", "b"], (name) => steps.go(name), { concurrency: 2 })
        yield* Effect.yieldNow
        assert.deepStrictEqual(log, ["continue init", "a", "continue a", "b", "continue b"])
      }).pipe(Effect.provide(Steps.layer()))
    })
  )

  it.effect("plain messages arrive at info, from outside and from the server's own fibers", () =>
    Effect.gen(function* () {
      class Clock extends GenServer.Service<Clock>()("test/Clock", {
        init: () =>
          Effect.gen(function* () {
            const self = yield* GenServer.Self
            yield* Effect.forkScoped(Effect.forever(Effect.delay(self.send({ ticks: 1 }), "1 second")))
            return 0
          }),
        calls: { get: (state) => Effect.succeed(GenServer.reply(state, state)) },
        info: (state, message: { readonly ticks: number }) => Effect.succeed(state + message.ticks)
      }) {}
      yield* Effect.gen(function* () {
        yield* TestClock.adjust("3 seconds")
        yield* Clock.send({ ticks: 10 })
        assert.strictEqual(yield* Clock.get(), 13)
      }).pipe(Effect.provide(Clock.layer()))
    })
  )

  it.effect("idle runs when no message came for that long, and every message starts the wait anew", () =>
    Effect.gen(function* () {
      let idles = 0
      class Idle extends GenServer.Service<Idle>()("test/Idle", {
        init: () => Effect.succeed(0),
        casts: { poke: (state) => Effect.succeed(state) },
        idle: { after: "10 seconds", handle: (state) => Effect.sync(() => (idles++, state)) }
      }) {}
      yield* Effect.gen(function* () {
        yield* TestClock.adjust("9 seconds")
        yield* Idle.poke()
        yield* TestClock.adjust("9999 millis")
        assert.strictEqual(idles, 0)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(idles, 1)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(idles, 2)
      }).pipe(Effect.provide(Idle.layer()))
    })
  )

  it.effect("a bounded mailbox refuses with a typed error what it cannot hold, and stop is exempt", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      class Narrow extends GenServer.Service<Narrow>()("test/Narrow", {
        init: () => Effect.succeed(0),
        capacity: 2,
        calls: {
          wait: (state) => Effect.as(Deferred.await(gate), GenServer.reply(state, state)),
          add: (state) => Effect.succeed(GenServer.reply(state + 1, state + 1))
        },
        casts: { bump: (state) => Effect.succeed(state + 1) }
      }) {}
      yield* Effect.gen(function* () {
        const wait = yield* Effect.forkChild(Narrow.wait())
        yield* Effect.yieldNow
        const add = yield* Effect.forkChild(Narrow.add())
        yield* Effect.yieldNow
        yield* Narrow.bump()
        assert.strictEqual((yield* Effect.flip(Narrow.add())).reason._tag, "MailboxFull")
        assert.include((yield* Effect.flip(Narrow.bump())).message, "has 2 messages waiting and takes no more")
        const stop = yield* Effect.forkChild(Narrow.stop())
        yield* Effect.yieldNow
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(wait)
        assert.strictEqual(yield* Fiber.join(add), 1)
        yield* Fiber.join(stop)
      }).pipe(Effect.provide(Narrow.layer()))
    })
  )

  it.effect("Tree shows the mailbox length and the number of handled messages", () =>
    Effect.gen(function* () {
      yield* Counter.increment(1)
      yield* Effect.forkChild(Effect.exit(Counter.slow()))
      yield* Effect.yieldNow
      yield* Effect.forkChild(Effect.exit(Counter.increment(1)))
      yield* Effect.yieldNow
      const { handled, mailboxLength } = yield* Tree.get("App/counter")
      assert.deepStrictEqual({ handled, mailboxLength }, { handled: 2, mailboxLength: 1 })
    }).pipe(Effect.provide(supervised()))
  )

  it.effect("a domain model as state is refused when the server starts, even where the compiler was not told", () =>
    Effect.gen(function* () {
      class Page extends Model.Class<Page>("Page")({ id: Model.GeneratedByDb(Schema.Int), url: Schema.String }) {}
      class Holder extends GenServer.Service<Holder>()("test/Holder", {
        init: () => Effect.succeed({ page: new Page({ id: 1, url: "https://example.org" }) })
      }) {}
      const exit = yield* Effect.exit(Effect.scoped(Layer.build(Holder.layer())))
      assert.include(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), "holds the domain model Page")
    })
  )

  it.effect("handlers get the services that the layer was given", () =>
    Effect.gen(function* () {
      class Greeting extends Context.Service<Greeting, string>()("test/Greeting") {}
      class Greeter extends GenServer.Service<Greeter>()("test/Greeter", {
        init: () => Effect.succeed(0),
        calls: { greet: (state) => Effect.map(Greeting, (greeting) => GenServer.reply(greeting, state)) }
      }) {}
      const layer: Layer.Layer<Greeter, never, Greeting> = Greeter.layer()
      const reply = yield* Greeter.greet().pipe(Effect.provide(Layer.provide(layer, Layer.succeed(Greeting, "hello"))))
      assert.strictEqual(reply, "hello")
    })
  )
})
