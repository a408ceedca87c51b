/**
 * A supervisor: a layer that starts children in order, restarts those that crash, and stops them in reverse order.
 *
 * Strategies, restart types, the intensity window and the order of everything are OTP's (`supervisor`), with Elixir's
 * default of 3 restarts in 5 seconds. Differences, on purpose: the window is exact to the millisecond, a supervisor that
 * gives up is an abnormal end for its parent whatever its restart type, and a child's restart does not keep the
 * supervisor from attending to the others.
 *
 * Each child sees the services of the children before it. What is provided for them are stable handles: whoever got hold
 * of a child's service before a crash reaches the new instance after it.
 *
 * ```ts
 * import { Child, Supervisor } from "@coppice/supervision"
 * import { Context, Effect, Layer } from "effect"
 *
 * class Words extends Context.Service<Words, { readonly next: Effect.Effect<string> }>()("docs/Words") {}
 * const speak = Effect.flatMap(Words, (words) => Effect.forever(Effect.delay(Effect.flatMap(words.next, Effect.log), "1 second")))
 *
 * export const App = Supervisor.layer("App", {
 *   strategy: "rest_for_one",
 *   maxRestarts: 3,
 *   within: "5 seconds",
 *   children: [
 *     Child.layer("words", Layer.succeed(Words, { next: Effect.succeed("coppice") })),
 *     Child.effect("speaker", speak)
 *   ]
 * })
 * ```
 */
import { Cause, Context, Deferred, Duration, Effect, Exit, Layer, Queue } from "effect"
import type * as Child from "./Child.ts"
import { makeEnvironment } from "./internal/child.ts"
import { InvalidOptions, StartError } from "./internal/errors.ts"
import { CurrentProgram } from "./internal/program.ts"
import { register, SupervisorRuntime } from "./internal/runtime.ts"
import { Process, unlinked } from "./Process.ts"

export { InvalidOptions, MaxRestartsExceeded, StartError, StartTimeout } from "./internal/errors.ts"

/**
 * Which children are restarted when one ends: it alone (`one_for_one`), all of them (`one_for_all`), or it and those
 * that were started after it (`rest_for_one`).
 */
export type Strategy = "one_for_one" | "one_for_all" | "rest_for_one"

/** What a supervisor does and with whom. */
export interface Options<Children extends ReadonlyArray<Child.Any>> {
  readonly strategy: Strategy
  /** How many restarts, of all children together, are too few to give up. Defaults to 3; 0 gives up at once. */
  readonly maxRestarts?: number | undefined
  /** The time in which they are counted. Defaults to 5 seconds. */
  readonly within?: Duration.Input | undefined
  readonly children: Children
}

type Gives<C> = C extends Child.Child<string, infer ROut, unknown, unknown> ? ROut : never
type Fails<C> = C extends Child.Child<string, unknown, infer E, unknown> ? E : never
type Needs<C> = C extends Child.Child<string, unknown, unknown, infer RIn> ? RIn : never

type Provided<Children extends ReadonlyArray<Child.Any>> = Gives<Children[number]>

type Failure<Children extends ReadonlyArray<Child.Any>> = Fails<Children[number]>

/** What no earlier child provides. */
type Required<Children extends ReadonlyArray<Child.Any>, Before = never> = Children extends readonly [
  infer C,
  ...infer Rest extends ReadonlyArray<Child.Any>
]
  ? Exclude<Needs<C>, Before> | Required<Rest, Before | Gives<C>>
  : Children extends readonly []
    ? never
    : RequiredOfSome<Children, Before>

/** Of children that begin with any number of some: what those provide is there for the children after them. */
type RequiredOfSome<
  Children extends ReadonlyArray<Child.Any>,
  Before,
  After extends ReadonlyArray<Child.Any> = []
> = Children extends readonly [...infer Rest extends ReadonlyArray<Child.Any>, infer C extends Child.Any]
  ? RequiredOfSome<Rest, Before, [C, ...After]>
  : Exclude<Needs<Children[number]>, Before> | Required<After, Before | Gives<Children[number]>>

type KeyOf<Service> = Service extends { readonly key: infer Key extends string } ? `'${Key}'` : "a service"

/** An id that is known: neither any string, nor one of several. */
type Known<Id extends string, Ids = Id> = Id extends unknown
  ? [Ids] extends [Id]
    ? {} extends Record<Id, unknown>
      ? never
      : Id
    : never
  : never

/** Turns a child that needs what only a later child provides into the reason why it cannot stand where it stands. */
export type Ordered<
  Children extends ReadonlyArray<Child.Any>,
  Before = never,
  Ids = never
> = Children extends readonly [infer C extends Child.Any, ...infer Rest extends ReadonlyArray<Child.Any>]
  ? readonly [
      [C["id"]] extends [Ids]
        ? `two children are called '${C["id"]}': give each an id of its own`
        : [Extract<Exclude<Needs<C>, Before>, Provided<Rest>>] extends [never]
          ? C
          : `child '${C["id"]}' needs ${KeyOf<
              Extract<Exclude<Needs<C>, Before>, Provided<Rest>>
            >}, which only a later child provides: move that child before '${C["id"]}'`,
      ...Ordered<Rest, Before | Gives<C>, Ids | Known<C["id"]>>
    ]
  : Children

/**
 * A supervisor with its children as a layer. It is built when every child is up, and provides what they provide; it
 * requires what no earlier child provides. Fails with `StartError` when a child's first start fails, after stopping what
 * had started.
 *
 * Children may be spread from an array, or be there on a condition. What those provide counts as provided for the children
 * after them, although there may be none of them when it runs.
 *
 * When it gives up, it stops its children and ends with `MaxRestartsExceeded`: a crash for the supervisor above it, the
 * end of the application for `Application.run`. Calls to its children end with the defect `ChildUnavailable` then.
 */
export const layer = <const Children extends ReadonlyArray<Child.Any>>(
  name: string,
  options: Options<Children & Ordered<Children>>
): Layer.Layer<Provided<Children>, StartError<Failure<Children> | InvalidOptions>, Required<Children>> =>
  // The children's types are folded above; at run time their services are found in their contexts.
  Layer.effectContext(make(name, options)) as unknown as Layer.Layer<
    Provided<Children>,
    StartError<Failure<Children> | InvalidOptions>,
    Required<Children>
  >

const make = Effect.fnUntraced(function* (name: string, options: Options<ReadonlyArray<Child.Any>>) {
  const { children } = options
  const context = yield* Effect.context<never>()
  const env = makeEnvironment(context)
  const maxRestarts = options.maxRestarts ?? 3
  const withinMillis = Duration.toMillis(Duration.fromInputUnsafe(options.within ?? "5 seconds"))
  const process = Context.getOrUndefined(context, Process)
  const path = process?.path ?? name
  const problem = findProblem(name, maxRestarts, withinMillis, children)
  if (problem !== undefined) {
    return yield* new StartError({ path, reason: Cause.fail(new InvalidOptions({ path, problem })) })
  }
  const mailbox = yield* Queue.unbounded<Parameters<SupervisorRuntime["receive"]>[0]>()
  const { ended, ending, node, unregister } = register(env, name, options.strategy)
  yield* Effect.addFinalizer(() => Effect.sync(unregister))
  // Whoever has to know that it ends: the process that it is part of, or for a root the program.
  const program = process === undefined ? Context.get(context, CurrentProgram) : undefined
  program?.starting(env.registry)
  const runtime = new SupervisorRuntime(
    env,
    mailbox,
    node,
    { strategy: options.strategy, intensity: { maxRestarts, withinMillis }, children },
    (cause) => {
      ending()
      if (runtime.isUp) program?.ending(cause)
    }
  )
  if (node.kill === undefined) node.kill = (reason) => runtime.kill(reason)
  yield* Effect.addFinalizer(() => runtime.stopAll("stopped"))
  // Its end is told below, also where nobody watches the fibers of its layer.
  const loop = yield* unlinked(Effect.forkScoped(runtime.run))
  loop.addObserver((exit) => {
    const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty
    Deferred.doneUnsafe(runtime.ready, Exit.fail(new StartError({ path: node.path, reason: cause })))
    if (Cause.hasInterruptsOnly(cause)) return
    ended(exit)
    // One that was never up is a layer that failed, which is told already.
    if (!runtime.isUp) return
    program?.ended(cause)
    if (process !== undefined) Effect.runSync(process.exit(exit))
  })
  yield* Deferred.await(runtime.ready)
  return runtime.provided(Context.empty())
})

const findProblem = (
  name: string,
  maxRestarts: number,
  withinMillis: number,
  children: ReadonlyArray<Child.Any>
): string | undefined => {
  if (name === "" || name.includes("/")) return `a supervisor's name must not be empty or contain "/", but is "${name}"`
  if (!Number.isInteger(maxRestarts) || maxRestarts < 0)
    return `maxRestarts must be an integer from 0, but is ${maxRestarts}`
  if (!(withinMillis > 0)) return `within must be longer than 0 ms, but is ${withinMillis} ms`
  const ids = new Set<string>()
  for (const { id } of children) {
    if (id === "" || id.includes("/")) return `a child's id must not be empty or contain "/", but one is "${id}"`
    if (ids.has(id)) return `two children are called "${id}": give each an id of its own`
    ids.add(id)
  }
  return undefined
}
