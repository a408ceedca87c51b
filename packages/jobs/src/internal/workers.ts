/**
 * The workers of a node: those whose layers it was given.
 */
import { type Context, Effect, type Layer } from "effect"
import type { Running } from "../Worker.ts"
import { InvalidOptions } from "./options.ts"

/** What the layer of a worker provides, how it can fail, and what it needs. */
export type Provided<L> = L extends Layer.Layer<infer A, infer _E, infer _R> ? A : never
export type Failure<L> = L extends Layer.Layer<infer _A, infer E, infer _R> ? E : never
export type Needed<L> = L extends Layer.Layer<infer _A, infer _E, infer R> ? R : never

/** What the keys of all classes of workers begin with; a class that is not the first of its name has a number behind it. */
export const prefix = "@coppice/jobs/Worker"
const isWorker = new RegExp(`^${prefix}( \\d+)?/`)

/** The workers among the services of a context, by their names, which must be different. */
export const workersIn = Effect.fnUntraced(function* (context: Context.Context<never>) {
  const workers = new Map<string, Running>()
  for (const [key, value] of context.mapUnsafe) {
    if (!isWorker.test(key)) continue
    // What stands under such a key was put there by `Worker.toLayer`.
    const worker = value as Running
    const { name } = worker.spec
    if (workers.has(name)) {
      const problem = `has two workers called ${JSON.stringify(name)}: jobs go by the name, so rename or remove one of them`
      return yield* new InvalidOptions({ option: "workers", problem })
    }
    workers.set(name, worker)
  }
  return workers as ReadonlyMap<string, Running>
})
