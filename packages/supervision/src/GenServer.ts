/**
 * A server that handles one message at a time against private state: Erlang's `gen_server`.
 *
 * A definition names how the state begins (`init`), the questions it answers (`calls`) and the orders it takes
 * (`casts`). The class made of it is the service's key, its layer and its client in one. Timeouts, the order of messages,
 * `continue`, stop reasons and `terminate` are OTP's. Beyond OTP: a typed failure of a call handler is the caller's error
 * and leaves the server as it was, mailboxes can be bounded, and a caller that gives up waiting takes its question back.
 *
 * ```ts
 * import { GenServer } from "@coppice/supervision"
 * import { Effect } from "effect"
 *
 * export class Counter extends GenServer.Service<Counter>()("docs/Counter", {
 *   init: (start: number) => Effect.succeed({ count: start }),
 *   calls: {
 *     increment: (state, by: number) =>
 *       Effect.succeed(GenServer.reply(state.count + by, { count: state.count + by }))
 *   },
 *   casts: { reset: () => Effect.succeed({ count: 0 }) }
 * }) {}
 *
 * export const three = Counter.increment(2).pipe(Effect.provide(Counter.layer(1)))
 * ```
 */
import { Context, Duration, Effect, type Exit, type Fiber, Layer, type Scope } from "effect"
import type { CallError } from "./internal/callError.ts"
import {
  CallTimeout,
  type ErasedDefinition,
  make,
  makeMethods,
  makeSend,
  onServer,
  placeOf,
  type Self,
  toHandlers
} from "./internal/genServer.ts"
import { Next, Reply, Stop, type StopReason, type Then } from "./internal/outcome.ts"

export { CallError, CallingSelf, Down, MailboxFull, Timeout } from "./internal/callError.ts"
export { Self } from "./internal/genServer.ts"
export type { Next, Reply, Stop, StopReason, Then } from "./internal/outcome.ts"

// --------------------------------------------------------------------------------------------------------------------
// what handlers answer
// --------------------------------------------------------------------------------------------------------------------

/** Answers a call and goes on with a state. */
export const reply = <A, S>(value: A, state: S, then?: Then): Reply<A, S> => new Reply(value, state, then)

/** Goes on with a state. A handler without an answer may return the bare state as well. */
export const next = <S>(state: S, then?: Then): Next<S> => new Next(state, then)

/**
 * Stops the server: `"normal"` (the default) and `"shutdown"` are orderly, a `Cause` is a crash. A `reply` is sent after
 * `terminate` has run; a call without one fails with `Down`.
 */
export function stop(reason?: StopReason): Stop
export function stop<A>(reason: StopReason, options: { readonly reply: A }): Stop<A>
export function stop<A>(reason: StopReason = "normal", options?: { readonly reply: A }): Stop<A> {
  return new Stop(reason, options === undefined ? undefined : { value: options.reply })
}

// --------------------------------------------------------------------------------------------------------------------
// timeouts
// --------------------------------------------------------------------------------------------------------------------

/** How long the calls in an effect wait for their answers: 5 seconds unless said otherwise, as in OTP. */
export const withCallTimeout =
  (timeout: Duration.Input) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.provideService(effect, CallTimeout, Duration.toMillis(Duration.fromInputUnsafe(timeout)))

// --------------------------------------------------------------------------------------------------------------------
// definition
// --------------------------------------------------------------------------------------------------------------------

type CallHandlers<S> = Readonly<
  Record<
    string,
    (state: S, ...args: Array<never>) => Effect.Effect<Reply<unknown, S> | Stop<unknown>, unknown, unknown>
  >
>
type CastHandlers<S> = Readonly<
  Record<string, (state: S, ...args: Array<never>) => Effect.Effect<S | Next<S> | Stop, unknown, unknown>>
>

/** Names that the class itself uses. */
type Reserved =
  | "layer"
  | "send"
  | "stop"
  | "of"
  | "use"
  | "useSync"
  | "context"
  | "key"
  | "name"
  | "length"
  | "prototype"
  | "pipe"
  | "then"
  | "asEffect"

/** A handler of such a name is refused, with the reason as its type. */
type NotReserved = {
  readonly [K in Reserved]?: `'${K}' is a name of the class itself: call the handler something else`
}

/** A name is a call or a cast; what is both has the reason against it as its type. */
type Distinct<Calls, Casts> = [keyof Calls & keyof Casts] extends [never]
  ? unknown
  : `a handler is either a call or a cast: '${keyof Calls & keyof Casts & string}' is both`

type IsEntity<S> = "~coppice/domain/Entity" extends keyof S ? true : false

type Leaf = string | number | bigint | boolean | symbol | null | undefined | ((...args: Array<never>) => unknown)

/** Whether a state is, or holds, a domain entity: itself, or a few levels down, in whatever can be iterated. */
type HoldsEntity<S, Depth extends ReadonlyArray<1> = []> = 0 extends 1 & S
  ? false
  : Depth["length"] extends 5
    ? false
    : S extends Leaf
      ? false
      : IsEntity<S> extends true
        ? true
        : true extends
              | (S extends Iterable<infer A> ? HoldsEntity<A, [...Depth, 1]> : false)
              | { [K in keyof S]: HoldsEntity<S[K], [...Depth, 1]> }[keyof S]
          ? true
          : false

type Stateless<S> =
  true extends HoldsEntity<S>
    ? "a process must not hold domain entities: they live in the database. Keep their ids, or cache values that can be read again"
    : unknown

/** How a server begins, what it answers and how it ends. */
export interface Definition<
  Args extends ReadonlyArray<unknown>,
  S,
  EI,
  RI,
  Calls,
  Casts,
  M,
  RM,
  C,
  RC,
  RD,
  RT,
  Capacity
> {
  /** Makes the first state; runs when the layer is built, and again on every restart. */
  readonly init: (...args: Args) => Effect.Effect<S | Next<S>, EI, RI>
  /** Messages with an answer. A typed failure is the caller's; a defect is the server's end. */
  readonly calls?: Calls
  /** Messages without an answer. A failure is the server's end. */
  readonly casts?: Casts
  /** Plain messages, from `send` or from the server's own `Self`. */
  readonly info?: (state: S, message: M) => Effect.Effect<S | Next<S> | Stop, unknown, RM>
  /** What a handler asked to run before the next message. */
  readonly continue?: (state: S, argument: C) => Effect.Effect<S | Next<S> | Stop, unknown, RC>
  /** What to do when no message came for a while. */
  readonly idle?: {
    readonly after: Duration.Input
    readonly handle: (state: S) => Effect.Effect<S | Next<S> | Stop, unknown, RD>
  }
  /** Runs at every end with the last state and the exit; after it callers of a stop get their reply. */
  readonly terminate?: (state: S, exit: Exit.Exit<StopReason, unknown>) => Effect.Effect<void, never, RT>
  /** How many messages may wait. Defaults to no limit; with one, calls and casts fail with `MailboxFull` beyond it. */
  readonly capacity?: Capacity
}

type Tail<H> = H extends (...all: infer All) => unknown
  ? All extends readonly [unknown?, ...infer Args]
    ? Args
    : []
  : never
type Answer<H> = H extends (...args: Array<never>) => Effect.Effect<infer Outcome, infer _E, infer _R>
  ? Outcome extends Reply<infer A, infer _S>
    ? A
    : Outcome extends Stop<infer A>
      ? A
      : never
  : never
type FailureOf<H> = H extends (...args: Array<never>) => Effect.Effect<infer _A, infer E, infer _R> ? E : never
type Needs<Hs> = Hs[keyof Hs] extends infer H
  ? H extends (...args: Array<never>) => Effect.Effect<infer _A, infer _E, infer R>
    ? R
    : never
  : never

// Handlers that were not given are inferred as their bare constraint.
type Given<Handlers> = string extends keyof Handlers ? {} : Handlers

type CastFailure<Capacity> = [Capacity] extends [number] ? CallError : never

/** What the service offers to those who have it. */
export type Methods<Calls, Casts, Capacity, R> = {
  readonly [K in keyof Calls]: (
    ...args: Tail<Calls[K]>
  ) => Effect.Effect<Answer<Calls[K]>, FailureOf<Calls[K]> | CallError, R>
} & { readonly [K in keyof Casts]: (...args: Tail<Casts[K]>) => Effect.Effect<void, CastFailure<Capacity>, R> }

/** The class of a server: key, layer and client. */
export interface ServerClass<
  Self_,
  Key extends string,
  Args extends ReadonlyArray<unknown>,
  EI,
  R,
  Calls,
  Casts,
  M,
  Capacity
> extends Context.ServiceClass<Self_, Key, Methods<Calls, Casts, Capacity, never>> {
  /** The server as a layer: built when `init` is done, a child like any other. */
  readonly layer: (...args: Args) => Layer.Layer<Self_, EI, Exclude<R, Scope.Scope | Self>>
  /** Sends a plain message to the `info` handler. */
  readonly send: (message: M) => Effect.Effect<void, CastFailure<Capacity>, Self_>
  /** Stops the server after the messages that wait already; done when it has ended. Its supervisor then does its part. */
  readonly stop: (reason?: StopReason) => Effect.Effect<void, CallError, Self_>
}

/** Makes the class of a server out of its definition. */
export const Service =
  <Self_>() =>
  <
    const Key extends string,
    Args extends ReadonlyArray<unknown>,
    S,
    EI,
    RI,
    Calls extends CallHandlers<S> & NotReserved,
    Casts extends CastHandlers<S> & NotReserved,
    M = never,
    RM = never,
    C = never,
    RC = never,
    RD = never,
    RT = never,
    Capacity = undefined
  >(
    key: Key,
    definition: Definition<Args, S, EI, RI, Calls, Casts, M, RM, C, RC, RD, RT, Capacity>
      & Stateless<NoInfer<S>>
      & Distinct<Given<NoInfer<Calls>>, Given<NoInfer<Casts>>>
  ): ServerClass<
    Self_,
    Key,
    Args,
    EI,
    RI | Needs<Given<Calls>> | Needs<Given<Casts>> | RM | RC | RD | RT,
    Given<Calls>,
    Given<Casts>,
    M,
    Capacity
  >
    & Methods<Given<Calls>, Given<Casts>, Capacity, Self_> => {
    const Tag = Context.Service<Self_, object>()(key)
    // From here on states and arguments are opaque.
    const erased = definition as unknown as ErasedDefinition
    const handlers = toHandlers(erased)
    const find = (fiber: Fiber.Fiber<unknown, unknown>) => placeOf(key, Context.getUnsafe(fiber.context, Tag))
    const statics = {
      ...makeMethods(handlers, find),
      layer: (...args: ReadonlyArray<unknown>) => Layer.effect(Tag, make(key, erased, handlers, args)),
      send: makeSend(key, handlers, find),
      stop: (reason: StopReason = "normal") =>
        Effect.withFiber((fiber: Fiber.Fiber<unknown, unknown>) =>
          onServer(fiber, find(fiber), (server, timeoutMillis) => server.stop(fiber, reason, timeoutMillis))
        )
    }
    // The members just added are those that the type lists.
    return Object.assign(Tag, statics) as never
  }
