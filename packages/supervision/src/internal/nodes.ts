/** The nodes of the running trees: what `Tree` shows, kept by the supervisors. */
import { type Cause, Context, Effect, Schema, type Exit } from "effect"

export const Status = Schema.Literals(["starting", "running", "restarting", "stopping", "stopped", "finished"])
export type Status = typeof Status.Type

export interface Node {
  path: string
  readonly id: string
  kind: "supervisor" | "worker"
  /** The supervisor's own name and strategy, when the process is one. */
  name: string | undefined
  strategy: "one_for_one" | "one_for_all" | "rest_for_one" | undefined
  status: Status
  incarnation: number
  restarts: number
  /** The latest crashes, oldest first. */
  crashes: ReadonlyArray<Crash>
  /** Milliseconds since 1970. */
  startedAt: number | undefined
  /** Instances that outlived their shutdown and are still there. */
  leaked: number
  report: (() => { readonly mailboxLength: number; readonly handled: number }) | undefined
  children: ReadonlyArray<Node>
  /** The identity of the present instance: its `Process`. */
  process: object | undefined
  /** Told of the end of the running instance. */
  monitors: Set<(exit: Exit.Exit<unknown, unknown>, stopped: boolean) => void> | undefined
  /** Tells whether there was a process to kill. */
  kill: ((reason: Killed) => boolean) | undefined
}

export interface Crash {
  readonly at: number
  readonly cause: Cause.Cause<unknown>
}

export type Event =
  | { readonly _tag: "Started"; readonly path: string; readonly at: number; readonly incarnation: number }
  | { readonly _tag: "Crashed"; readonly path: string; readonly at: number; readonly cause: Cause.Cause<unknown> }
  | { readonly _tag: "StartFailed"; readonly path: string; readonly at: number; readonly cause: Cause.Cause<unknown> }
  | { readonly _tag: "Restarted"; readonly path: string; readonly at: number; readonly incarnation: number }
  | { readonly _tag: "Stopped"; readonly path: string; readonly at: number }
  | { readonly _tag: "Finished"; readonly path: string; readonly at: number }
  | { readonly _tag: "Leaked"; readonly path: string; readonly at: number }
  | { readonly _tag: "GaveUp"; readonly path: string; readonly at: number; readonly cause: Cause.Cause<unknown> }

/** The reason of a process that `Tree.kill` ended. */
export class Killed extends Schema.TaggedError<Killed>()("Killed", { path: Schema.String }) {
  // Where the kill was asked for says nothing about the process.
  override readonly stack = `Killed: ${this.message}`

  override get message(): string {
    return `${this.path} was killed`
  }
}

export interface Registry {
  readonly roots: Array<Node>
  readonly listeners: Set<(event: Event) => void>
}

export const makeRegistry = (): Registry => ({ roots: [], listeners: new Set() })

export const CurrentRegistry = Context.Reference<Registry>("@coppice/supervision/Tree", { defaultValue: makeRegistry })

export const makeNode = (path: string, id: string): Node => ({
  path,
  id,
  kind: "worker",
  name: undefined,
  strategy: undefined,
  status: "starting",
  incarnation: 0,
  restarts: 0,
  crashes: [],
  startedAt: undefined,
  leaked: 0,
  report: undefined,
  children: [],
  process: undefined,
  monitors: undefined,
  kill: undefined
})

/** Tells the monitors of a process, once, that it has ended. */
export const tellEnd = (node: Node, exit: Exit.Exit<unknown, unknown>, stopped: boolean): void => {
  const { monitors } = node
  node.monitors = undefined
  monitors?.forEach((tell) => tell(exit, stopped))
}

export const find = (nodes: ReadonlyArray<Node>, path: string): Node | undefined => {
  for (const node of nodes) {
    if (node.path === path) return node
    if (path.startsWith(`${node.path}/`)) {
      const found = find(node.children, path)
      if (found !== undefined) return found
    }
  }
  return undefined
}

export const findNode = (path: string): Effect.Effect<Node | undefined> =>
  Effect.map(CurrentRegistry, (registry) => find(registry.roots, path))

export const publish = (registry: Registry, event: Event): void => {
  for (const listener of registry.listeners) listener(event)
}

/** A path that none of the nodes has: two trees of one name are told apart by a number. */
export const freePath = (nodes: ReadonlyArray<Node>, wanted: string): string => {
  let path = wanted
  for (let n = 2; nodes.some((node) => node.path === path); n++) path = `${wanted}~${n}`
  return path
}
