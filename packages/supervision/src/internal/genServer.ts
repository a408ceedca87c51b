/** What a `GenServer` class is made of: starting its server, and finding the server that a call is for. */
import { Cause, Clock, Context, Duration, Effect, Exit, type Fiber } from "effect"
import { Process } from "../Process.ts"
import { toCallError } from "./callError.ts"
import { type Cell, refusal } from "./cell.ts"
import { cellOf, Unguarded } from "./handle.ts"
import { type Handlers, Server, type StopReason } from "./server.ts"

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

const servers = new WeakMap<object, Server>()

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
    yield* process.report(() => ({ mailboxLength: server.mailboxLength, handled: server.handled }))
  }
  const life = Effect.flatMap(server.loop, (reason) =>
    Cause.isCause(reason) ? Effect.failCause(reason) : Effect.succeed(reason)
  ).pipe(
    Effect.onExit((exit) => {
      server.end(exit)
      const told = process === undefined ? Effect.void : process.exit(exit)
      const terminated =
        definition.terminate === undefined
          ? Effect.void
          : (definition.terminate(server.state, exit) as Effect.Effect<void>)
      return Effect.andThen(
        Effect.andThen(told, terminated),
        Effect.sync(() => server.finish())
      )
    }),
    Effect.provideContext(context)
  ) as Effect.Effect<StopReason, unknown>
  server.fiber = yield* Effect.forkScoped(life, { startImmediately: true })
  const service: Record<string | symbol, unknown> = { [Unguarded]: true }
  const method =
    (cast: boolean, name: string) =>
    (...args: ReadonlyArray<unknown>) =>
      Effect.withFiber((fiber: Fiber.Fiber<unknown, unknown>) =>
        cast ? castTo(server, fiber, name, args) : server.call(fiber, name, args, fiber.getRef(CallTimeout))
      )
  for (const name of Object.keys(handlers.calls)) service[name] = method(false, name)
  for (const name of Object.keys(handlers.casts)) service[name] = method(true, name)
  servers.set(service, server)
  return service
})

export const castTo = (
  server: Server,
  fiber: Fiber.Fiber<unknown, unknown> | undefined,
  name: string,
  args: ReadonlyArray<unknown>
): Effect.Effect<void, unknown> => {
  const handler = name === "info" ? server.handlers.info : server.handlers.casts[name]
  if (handler === undefined) return Effect.die(new Error(`${server.key} has no \`${name}\` handler`))
  const run = (state: unknown) => (handler as Handlers["casts"][string])(state, ...args)
  return server.cast(name, run, fiber?.cache.span)
    ? Exit.void
    : Exit.fail(server.toError({ _tag: "MailboxFull", capacity: server.handlers.capacity }))
}

/** Finds the running server behind a service, waiting for it within the call's timeout while it restarts. */
export const reach = (
  fiber: Fiber.Fiber<unknown, unknown>,
  key: string,
  service: unknown,
  use: (server: Server, timeoutMillis: number) => Effect.Effect<unknown, unknown>
): Effect.Effect<unknown, unknown> =>
  refusal(fiber.context, key) ?? reachWithin(fiber.getRef(CallTimeout), key, service, use)

const reachWithin = (
  timeout: number,
  key: string,
  service: unknown,
  use: (server: Server, timeoutMillis: number) => Effect.Effect<unknown, unknown>
): Effect.Effect<unknown, unknown> => {
  const behind = typeof service === "object" && service !== null ? cellOf(service) : undefined
  if (behind === undefined) return use(serverOf(key, service), timeout)
  const running = behind.cell.current?.services.get(behind.key)
  // Below a supervisor inside a supervisor, behind a handle there is another one.
  return running !== undefined ? reachWithin(timeout, key, running, use) : waitFor(key, behind, timeout, use)
}

const waitFor = (
  key: string,
  behind: { readonly cell: Cell; readonly key: string },
  timeout: number,
  use: (server: Server, timeoutMillis: number) => Effect.Effect<unknown, unknown>
): Effect.Effect<unknown, unknown> =>
  Effect.flatMap(Clock.currentTimeMillis, (began) =>
    Effect.timeoutOrElse(behind.cell.instance, {
      duration: timeout,
      orElse: () => Effect.fail(toCallError(behind.cell.path, { _tag: "Timeout", millis: timeout }))
    }).pipe(
      Effect.flatMap((instance) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) =>
          reachWithin(Math.max(0, timeout - (now - began)), key, instance.services.get(behind.key), use)
        )
      )
    )
  )

const serverOf = (key: string, service: unknown): Server => {
  const server = typeof service === "object" && service !== null ? servers.get(service) : undefined
  if (server === undefined) throw new Error(`the service "${key}" was not made by its GenServer's layer`)
  return server
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
