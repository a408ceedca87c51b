/** What a `GenServer` class is made of: starting its server, and finding the server that a message is for. */
import { Cause, Clock, Context, Duration, Effect, Exit, type Fiber } from "effect"
import { Process } from "../Process.ts"
import { toCallError } from "./callError.ts"
import { type Cell, type Instance, refusal } from "./cell.ts"
import { monotonicMillis } from "./child.ts"
import { MakeHandle } from "./handle.ts"
import type { Handlers, StopReason } from "./outcome.ts"
import { Server } from "./server.ts"

/** Milliseconds; see `GenServer.withCallTimeout`. */
export const CallTimeout = Context.Reference<number>("@coppice/supervision/GenServer/CallTimeout", {
  defaultValue: () => 5000
})

/** The server itself, for its own `init` and handlers: what it sends arrives at its `info` handler. */
export class Self extends Context.Service<
  Self,
  {
    readonly send: (message: unknown) => Effect.Effect<void>
  }
>()("@coppice/supervision/GenServer/Self") {}

/** A definition whose types have done their work: states and arguments are opaque. */
export interface ErasedDefinition {
  readonly init: (...args: ReadonlyArray<unknown>) => Effect.Effect<unknown, unknown, unknown>
  readonly calls?: Handlers["calls"]
  readonly casts?: Handlers["casts"]
  readonly info?: NonNullable<Handlers["info"]>
  readonly continue?: NonNullable<Handlers["continue"]>
  readonly idle?: { readonly after: Duration.Input; readonly handle: NonNullable<Handlers["idle"]>["handle"] }
  readonly terminate?: (state: unknown, exit: Exit.Exit<StopReason, unknown>) => Effect.Effect<void, never, unknown>
  readonly capacity?: number
}

export const toHandlers = (definition: ErasedDefinition): Handlers => ({
  calls: definition.calls ?? {},
  casts: definition.casts ?? {},
  info: definition.info,
  continue: definition.continue,
  idle:
    definition.idle === undefined
      ? undefined
      : {
          afterMillis: Duration.toMillis(Duration.fromInputUnsafe(definition.idle.after)),
          handle: definition.idle.handle
        },
  capacity: definition.capacity ?? Infinity
})

// --------------------------------------------------------------------------------------------------------------------
// finding the server
// --------------------------------------------------------------------------------------------------------------------

type AnyFiber = Fiber.Fiber<unknown, unknown>

/** Where a server is: itself, or the one that a child's cell leads to. */
type Place = Server | { readonly cell: Cell; readonly key: string }

const ServerPlace: unique symbol = Symbol.for("@coppice/supervision/ServerPlace")

/** Where the server behind a service is. */
export const placeOf = (key: string, service: unknown): Place => {
  if (typeof service === "object" && service !== null && isPlaced(service)) return service[ServerPlace]
  throw new Error(`the service "${key}" was not made by its GenServer's layer`)
}

const isPlaced = (service: object): service is { readonly [ServerPlace]: Place } => ServerPlace in service

// An instance of a supervisor provides its own handles: the way to the server goes through one cell after the other.
const placeIn = (key: string, instance: Instance): Place => placeOf(key, instance.services.get(key))

/** Has a call's server answer it, or waits for the server within the call's timeout while it restarts. */
export const onServer = (
  fiber: AnyFiber,
  place: Place,
  ask: (server: Server, timeoutMillis: number) => Effect.Effect<unknown, unknown>,
  timeoutMillis = fiber.getRef(CallTimeout)
): Effect.Effect<unknown, unknown> => {
  if (place instanceof Server) return ask(place, timeoutMillis)
  const { cell, key } = place
  const refused = refusal(fiber.context, cell.path)
  if (refused !== undefined) return refused
  if (cell.current !== undefined) return onServer(fiber, placeIn(key, cell.current), ask, timeoutMillis)
  const clock = fiber.getRef(Clock.Clock)
  const began = monotonicMillis(clock)
  return Effect.timeoutOrElse(cell.instance, {
    duration: timeoutMillis,
    orElse: () => Effect.fail(toCallError(cell.path, { _tag: "Timeout", millis: timeoutMillis }))
  }).pipe(
    Effect.flatMap((instance) => {
      const left = Math.max(0, timeoutMillis - (monotonicMillis(clock) - began))
      return onServer(fiber, placeIn(key, instance), ask, left)
    })
  )
}

/** Puts a message into the mailbox of a server. It has no timeout: it waits for a server that restarts. */
const tellServer = (
  fiber: AnyFiber,
  place: Place,
  tell: (server: Server) => Effect.Effect<void, unknown>
): Effect.Effect<void, unknown> => {
  if (place instanceof Server) return tell(place)
  const { cell, key } = place
  const refused = refusal(fiber.context, cell.path)
  if (refused !== undefined) return refused
  return cell.current !== undefined
    ? tellServer(fiber, placeIn(key, cell.current), tell)
    : Effect.flatMap(cell.instance, (instance) => tellServer(fiber, placeIn(key, instance), tell))
}

// --------------------------------------------------------------------------------------------------------------------
// clients
// --------------------------------------------------------------------------------------------------------------------

type Method = (...args: ReadonlyArray<unknown>) => Effect.Effect<unknown, unknown>

const castTo = (server: Server, fiber: AnyFiber, name: string, run: Parameters<Server["cast"]>[1]) =>
  server.cast(name, run, fiber.cache.span)
    ? Exit.void
    : Exit.fail(server.toError({ _tag: "MailboxFull", capacity: server.handlers.capacity }))

/** The calls and casts of a server, wherever it is for the fiber that makes them. */
export const makeMethods = (handlers: Handlers, find: (fiber: AnyFiber) => Place): Record<string, Method> => {
  const methods: Record<string, Method> = {}
  for (const name of Object.keys(handlers.calls)) {
    methods[name] = (...args) =>
      Effect.withFiber((fiber: AnyFiber) =>
        onServer(fiber, find(fiber), (server, timeoutMillis) => server.call(fiber, name, args, timeoutMillis))
      )
  }
  for (const [name, handler] of Object.entries(handlers.casts)) {
    methods[name] = (...args) =>
      Effect.withFiber((fiber: AnyFiber) =>
        tellServer(fiber, find(fiber), (server) => castTo(server, fiber, name, (state) => handler(state, ...args)))
      )
  }
  return methods
}

/** Sends plain messages. */
export const makeSend =
  (key: string, handlers: Handlers, find: (fiber: AnyFiber) => Place) =>
  (message: unknown): Effect.Effect<void, unknown> => {
    const { info } = handlers
    return info === undefined
      ? Effect.die(new Error(`${key} has no \`info\` handler`))
      : Effect.withFiber((fiber: AnyFiber) =>
          tellServer(fiber, find(fiber), (server) => castTo(server, fiber, "info", (state) => info(state, message)))
        )
  }

// --------------------------------------------------------------------------------------------------------------------
// servers
// --------------------------------------------------------------------------------------------------------------------

/** Starts a server in the layer's scope and returns the service: its calls and casts as methods. */
export const make = Effect.fnUntraced(function* (
  key: string,
  definition: ErasedDefinition,
  handlers: Handlers,
  args: ReadonlyArray<unknown>
) {
  const process = Context.getOrUndefined(yield* Effect.context<never>(), Process)
  const label = process?.path ?? key
  const self = Self.of({
    // Its own messages do not count against the capacity: a server must not fail for being told of its own business.
    send: (message) => Effect.sync(() => server.tell(message))
  })
  const context = Context.add(yield* Effect.context<never>(), Self, self)
  const server: Server = new Server(key, handlers, context, Context.get(context, Clock.Clock), (failure) =>
    toCallError(label, failure)
  )
  const first = yield* Effect.provideContext(definition.init(...args) as Effect.Effect<unknown>, context)
  server.begin(first)
  refuseModels(key, server.state)
  if (process !== undefined) {
    yield* process.report(() => ({ mailboxLength: server.mailbox.length, handled: server.handled }))
  }
  const life = Effect.flatMap(server.loop, (reason) =>
    Cause.isCause(reason) ? Effect.failCause(reason) : Effect.succeed(reason)
  ).pipe(
    Effect.onExit((exit) => {
      server.end(exit)
      const terminate = Effect.suspend(() => definition.terminate?.(server.state, exit) ?? Effect.void)
      return Effect.andThen(
        process === undefined ? Effect.void : process.exit(exit),
        Effect.onExit(terminate, (ended) => Effect.sync(() => server.finish(ended)))
      )
    }),
    Effect.provideContext(context)
  ) as Effect.Effect<StopReason, unknown>
  server.fiber = yield* Effect.forkScoped(life, { startImmediately: true })
  // Also an end that ran no finalizer is an end.
  server.fiber.addObserver((exit) => {
    server.end(exit)
    server.finish(exit)
  })
  return serviceAt(server, handlers)
})

// The service at a place; the service of a server makes its own handles, which find the server themselves.
const serviceAt = (place: Place, handlers: Handlers): object => {
  const service: Record<string | symbol, unknown> = makeMethods(handlers, () => place)
  service[MakeHandle] = (cell: Cell, key: string) => serviceAt({ cell, key }, handlers)
  service[ServerPlace] = place
  return service
}

// A model that was not marked as an entity escapes the compiler, but not the server's start.
const refuseModels = (key: string, state: unknown): void => {
  const held = typeof state === "object" && state !== null ? [state, ...Object.values(state)] : []
  for (const value of held) {
    if (typeof value !== "object" || value === null) continue
    const model: unknown = value.constructor
    if (typeof model === "function" && "fields" in model && "jsonCreate" in model && "insert" in model) {
      throw new Error(`${key} holds the domain model ${model.name}: entities live in the database, not in processes`)
    }
  }
}
