/**
 * The running server behind a `GenServer`: a mailbox, a loop that handles one message at a time, and the callers that
 * wait for an answer.
 *
 * A message that finds the server idle is handled on the spot, in the sender's turn: a handler that answers without
 * suspending costs neither a queue nor a switch of fibers. Any other effect is run by the loop, which the sender wakes;
 * how deep such turns may nest is bounded.
 */
import { Cause, type Clock, type Context, Effect, Exit, type Fiber, type Tracer } from "effect"
import { monotonicMillis } from "./child.ts"
import { Mailbox, type Message, Request } from "./mailbox.ts"
import { type Handlers, Next, type Outcome, Reply, type Run, Stop, type StopReason, type Then } from "./outcome.ts"

/** Why a call has no answer; made into a `CallError` by `GenServer`. */
export type Failure =
  | { readonly _tag: "Timeout"; readonly millis: number }
  | { readonly _tag: "Down"; readonly cause: Cause.Cause<unknown> }
  | { readonly _tag: "MailboxFull"; readonly capacity: number }
  | { readonly _tag: "CallingSelf" }

// How many servers may handle each other's messages within one turn before the next one is scheduled.
const maxNesting = 32
let nesting = 0

export class Server {
  readonly key: string
  readonly handlers: Handlers
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock
  readonly toError: (failure: Failure) => unknown
  readonly mailbox = new Mailbox()
  state: unknown
  handled = 0
  /** Set when no message will be handled any more. */
  ended: Exit.Exit<unknown, unknown> | undefined
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  private then: Then | undefined
  private stopping: Stop<unknown> | undefined
  private lastReply: { readonly request: Request; readonly value: unknown } | undefined
  private current: Message | undefined
  /** A message whose handler has been called in its sender's turn, and whose effect the loop has to run. */
  private begun: { readonly message: Message; readonly effect: Run } | undefined
  private wake: (() => void) | undefined
  private waiting: Array<Request> = []
  private armed = 0
  private sweeper: { readonly fiber: Fiber.Fiber<void>; readonly at: number } | undefined

  constructor(
    key: string,
    handlers: Handlers,
    context: Context.Context<never>,
    clock: Clock.Clock,
    toError: (failure: Failure) => unknown
  ) {
    this.key = key
    this.handlers = handlers
    this.context = context
    this.clock = clock
    this.toError = toError
  }

  /** Takes what `init` answered as the first state. */
  begin(first: unknown): void {
    this.state = first instanceof Next ? first.state : first
    this.then = first instanceof Next ? first.then : undefined
  }

  // ------------------------------------------------------------------------------------------------------------------
  // senders
  // ------------------------------------------------------------------------------------------------------------------

  call(
    fiber: Fiber.Fiber<unknown, unknown>,
    name: string,
    args: ReadonlyArray<unknown>,
    timeoutMillis: number
  ): Effect.Effect<unknown, unknown> {
    const handler = this.handlers.calls[name]!
    return this.request(fiber, name, (state) => handler(state, ...args), timeoutMillis)
  }

  stop(
    fiber: Fiber.Fiber<unknown, unknown>,
    reason: StopReason,
    timeoutMillis: number
  ): Effect.Effect<unknown, unknown> {
    const stop = Effect.succeed(new Stop(reason, { value: undefined }))
    return this.request(fiber, "stop", () => stop, timeoutMillis)
  }

  private request(
    fiber: Fiber.Fiber<unknown, unknown>,
    name: string,
    run: (state: unknown) => Run,
    timeoutMillis: number
  ): Effect.Effect<unknown, unknown> {
    if (this.ended !== undefined) return this.fail({ _tag: "Down", cause: causeOf(this.ended) })
    if (fiber === this.fiber) return this.fail({ _tag: "CallingSelf" })
    if (this.mailbox.length >= this.handlers.capacity && this.wake === undefined && name !== "stop") {
      return this.fail({ _tag: "MailboxFull", capacity: this.handlers.capacity })
    }
    const request = new Request()
    this.push({ name, run, request, span: fiber.cache.span })
    return request.exit ?? this.await(request, timeoutMillis)
  }

  /** Puts a message into the mailbox; `false` when it is full. A message for an ended server is dropped, as in OTP. */
  cast(name: string, run: (state: unknown) => Run, span: Tracer.AnySpan | undefined): boolean {
    if (this.ended !== undefined) return true
    if (this.mailbox.length >= this.handlers.capacity && this.wake === undefined) return false
    this.push({ name, run, request: undefined, span })
    return true
  }

  /** Puts a plain message of the server's own into the mailbox, full or not. */
  tell(message: unknown): void {
    const { info } = this.handlers
    if (info === undefined) throw new Error(`${this.key} has no \`info\` handler`)
    if (this.ended === undefined) {
      this.push({ name: "info", run: (state) => info(state, message), request: undefined, span: undefined })
    }
  }

  private fail(failure: Failure): Exit.Exit<never, unknown> {
    return Exit.fail(this.toError(failure))
  }

  private push(message: Message): void {
    const wake = this.wake
    if (wake === undefined) {
      this.mailbox.push(message)
      return
    }
    this.wake = undefined
    this.handled++
    const effect = this.invoke(message.run)
    if (message.span === undefined && this.handlers.idle === undefined && isAnswer(message, effect)) {
      this.answer(message, effect)
      // Whatever came in while the handler ran is the loop's.
      if (this.mailbox.length === 0) {
        this.wake = wake
        return
      }
    } else {
      this.begun = { message, effect }
    }
    this.resume(wake)
  }

  private resume(wake: () => void): void {
    if (nesting >= maxNesting) {
      this.fiber?.currentDispatcher.scheduleTask(wake, 0)
      return
    }
    nesting++
    try {
      wake()
    } finally {
      nesting--
    }
  }

  private await(request: Request, timeoutMillis: number): Effect.Effect<unknown, unknown> {
    return Effect.callback<unknown, unknown>((resume) => {
      if (request.exit !== undefined) return resume(request.exit)
      request.resume = (exit) => {
        this.disarm(request)
        resume(exit)
      }
      if (timeoutMillis !== Infinity) this.arm(request, timeoutMillis)
      return Effect.sync(() => {
        request.resume = undefined
        this.disarm(request)
        this.leave(request, Exit.void)
      })
    })
  }

  // ------------------------------------------------------------------------------------------------------------------
  // timeouts: one sleeping fiber for all callers that wait
  // ------------------------------------------------------------------------------------------------------------------

  private arm(request: Request, timeoutMillis: number): void {
    request.deadline = monotonicMillis(this.clock) + timeoutMillis
    request.timeoutMillis = timeoutMillis
    request.armed = true
    this.armed++
    if (this.waiting.length > 64 && this.waiting.length > 2 * this.armed) {
      this.waiting = this.waiting.filter((other) => other.armed)
    }
    const { waiting } = this
    let index = waiting.length
    while (index > 0 && waiting[index - 1]!.deadline > request.deadline) index--
    waiting.splice(index, 0, request)
    if (this.sweeper === undefined || this.sweeper.at > request.deadline) this.sweepAt(request.deadline, timeoutMillis)
  }

  private disarm(request: Request): void {
    if (!request.armed) return
    request.armed = false
    this.armed--
    if (this.ended !== undefined && this.armed === 0) this.sweeper?.fiber.interruptUnsafe()
  }

  private sweepAt(at: number, inMillis: number): void {
    this.sweeper?.fiber.interruptUnsafe()
    const fiber = Effect.runForkWith(this.context)(
      Effect.andThen(
        Effect.sleep(inMillis),
        Effect.sync(() => this.sweep())
      )
    )
    this.sweeper = { fiber, at }
  }

  private sweep(): void {
    const now = monotonicMillis(this.clock)
    this.sweeper = undefined
    const { waiting } = this
    let due = 0
    while (due < waiting.length && (!waiting[due]!.armed || waiting[due]!.deadline <= now)) due++
    const left = waiting.splice(0, due)
    const next = waiting[0]
    if (next !== undefined) this.sweepAt(next.deadline, Math.max(0, next.deadline - now))
    for (const request of left) {
      if (request.armed) this.leave(request, this.fail({ _tag: "Timeout", millis: request.timeoutMillis }))
    }
  }

  // ------------------------------------------------------------------------------------------------------------------
  // the loop
  // ------------------------------------------------------------------------------------------------------------------

  /** Handles messages until a handler stops the server or fails. The result is the reason of a stop. */
  readonly loop: Effect.Effect<StopReason, unknown, unknown> = Effect.suspend(() =>
    // What `init` wants continued runs when the server is up, so that its failure is a crash and no failed start.
    this.then === undefined ? this.messages : Effect.andThen(Effect.yieldNow, this.messages)
  )

  private readonly messages: Effect.Effect<StopReason, unknown, unknown> = Effect.suspend(() =>
    Effect.map(
      Effect.whileLoop({
        while: () => this.stopping === undefined,
        body: () => this.step(),
        step: () => {}
      }),
      () => this.stopping?.reason ?? "normal"
    )
  )

  private step(): Effect.Effect<void, unknown, unknown> {
    const then = this.then
    if (then !== undefined) {
      this.then = undefined
      const run = this.handlers.continue
      return run === undefined
        ? Effect.die(new Error(`${this.key}: a handler asked to continue, but there is no \`continue\` handler`))
        : this.run(
            ownMessage("continue"),
            this.invoke((state) => run(state, then.continue))
          )
    }
    const begun = this.begun
    if (begun !== undefined) {
      this.begun = undefined
      return this.run(begun.message, begun.effect)
    }
    const message = this.mailbox.take()
    if (message === undefined) return this.park()
    if (message.request?.exit !== undefined) return Exit.void
    this.handled++
    return this.run(message, this.invoke(message.run))
  }

  private leave(request: Request, exit: Exit.Exit<unknown, unknown>): void {
    this.mailbox.leave(request)
    request.settle(exit)
  }

  // A handler that throws, or answers with something else than an effect, is one that dies.
  private invoke(handler: (state: unknown) => unknown): Run {
    try {
      const handling = handler(this.state)
      if (Effect.isEffect(handling)) return handling
      return Exit.die(new Error(`${this.key}: a handler must return an Effect, but one returned ${String(handling)}`))
    } catch (defect) {
      return Exit.die(defect)
    }
  }

  private run(message: Message, handling: Run): Effect.Effect<void, unknown, unknown> {
    this.current = message
    if (message.span === undefined && Exit.isExit(handling)) return this.settle(message, handling)
    let effect = handling
    if (message.span !== undefined) {
      effect = Effect.withSpan(effect, `GenServer.${this.key}.${message.name}`, { parent: message.span })
    }
    return Effect.matchCauseEffect(effect, {
      onSuccess: (outcome) => this.settle(message, Exit.succeed(outcome)),
      onFailure: (cause) => this.settle(message, Exit.failCause(cause))
    })
  }

  private settle(message: Message, exit: Exit.Exit<Outcome, unknown>): Effect.Effect<void, unknown> {
    const end = this.answer(message, exit)
    return end === undefined ? Exit.void : Exit.failCause(end)
  }

  /** Does what a handler has decided, and returns the cause when that is the server's end. */
  private answer(message: Message, exit: Exit.Exit<Outcome, unknown>): Cause.Cause<unknown> | undefined {
    const { request } = message
    if (Exit.isFailure(exit)) {
      // A typed failure of a call is its answer; anything else is the server's end.
      if (request === undefined || !exit.cause.reasons.every(Cause.isFailReason)) return exit.cause
      this.current = undefined
      request.settle(exit)
      return undefined
    }
    this.current = undefined
    const outcome = exit.value
    if (outcome instanceof Reply) {
      this.state = outcome.state
      this.then = outcome.then
      request?.settle(Exit.succeed(outcome.value))
    } else if (outcome instanceof Stop) {
      this.stopping = outcome
      // Answered after `terminate` has run, as in OTP.
      if (request !== undefined && outcome.reply !== undefined) {
        this.lastReply = { request, value: outcome.reply.value }
      } else if (request !== undefined) {
        this.current = message
      }
    } else if (outcome instanceof Next) {
      this.state = outcome.state
      this.then = outcome.then
    } else {
      this.state = outcome
    }
    return undefined
  }

  private park(): Effect.Effect<void, unknown, unknown> {
    const { idle } = this.handlers
    if (idle === undefined) return this.parked
    return Effect.flatMap(Effect.timeoutOption(this.parked, idle.afterMillis), (woken) =>
      woken._tag === "Some" ? Effect.void : this.run(ownMessage("idle"), this.invoke(idle.handle))
    )
  }

  private readonly parked = Effect.callback<void>((resume) => {
    if (this.mailbox.length > 0) return resume(Exit.void)
    this.wake = () => resume(Exit.void)
    return Effect.sync(() => {
      this.wake = undefined
    })
  })

  /** Tells every caller that waits that there will be no answer; the one that a stop replies to is kept for `finish`. */
  end(exit: Exit.Exit<unknown, unknown>): void {
    if (this.ended !== undefined) return
    this.ended = exit
    const asked = [this.current?.request, this.begun?.message.request]
    for (let message = this.mailbox.take(); message !== undefined; message = this.mailbox.take())
      asked.push(message.request)
    for (const request of asked) {
      if (request !== undefined && request.exit === undefined) {
        request.settle(this.fail({ _tag: "Down", cause: causeOf(exit) }))
      }
    }
    // The one that a stop replies to may still run out of patience with `terminate`.
    if (this.armed === 0) this.sweeper?.fiber.interruptUnsafe()
  }

  /** Sends the reply of a stop, once `terminate` has ended in whatever way. */
  finish(terminated: Exit.Exit<unknown, unknown>): void {
    const last = this.lastReply
    if (last === undefined || last.request.exit !== undefined) return
    last.request.settle(
      Exit.isSuccess(terminated) ? Exit.succeed(last.value) : this.fail({ _tag: "Down", cause: causeOf(terminated) })
    )
  }
}

const ownMessage = (name: string): Message => ({
  name,
  run: () => Exit.void,
  request: undefined,
  span: undefined
})

/** Whether an effect is an answer already, after which the server simply waits for the next message. */
const isAnswer = (message: Message, effect: Run): effect is Exit.Exit<Outcome, unknown> => {
  if (!Exit.isExit(effect)) return false
  if (Exit.isFailure(effect)) return message.request !== undefined && effect.cause.reasons.every(Cause.isFailReason)
  const outcome = effect.value
  return !(outcome instanceof Stop) && !((outcome instanceof Reply || outcome instanceof Next) && outcome.then)
}

const causeOf = (exit: Exit.Exit<unknown, unknown>): Cause.Cause<unknown> =>
  Exit.isFailure(exit) ? exit.cause : Cause.empty
