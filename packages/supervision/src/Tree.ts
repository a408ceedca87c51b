/**
 * The running trees: who runs, since when, how often it was restarted and why; and the way to crash a process by its
 * path, as one would with `Process.exit(pid, :kill)` in an Elixir shell.
 *
 * Every supervisor registers what it supervises in the `Tree` of its context. One is there by default; `Tree.layer`
 * gives a test or an embedded application one of its own.
 *
 * ```ts
 * import { Tree } from "@coppice/supervision"
 * import { Console, Effect } from "effect"
 *
 * export const crash = Effect.gen(function*() {
 *   yield* Tree.kill("Trails/trail-cache")
 *   yield* Console.log(yield* Tree.render)
 * })
 * ```
 */
import { Clock, Effect, Layer, Queue, Schema, Stream } from "effect"
import { briefly } from "./internal/errors.ts"
import * as Nodes from "./internal/nodes.ts"

export { Killed } from "./internal/nodes.ts"

/** What a process does now. `stopped` and `finished` ones are kept: a restart of their group starts them again. */
export type Status = Nodes.Status

/** A crash and when it was (milliseconds since 1970). */
export type Crash = Nodes.Crash

/** Something that happened in a tree; `at` is in milliseconds since 1970. */
export type Event = Nodes.Event

/** A process as it was when the snapshot was taken. */
export interface Snapshot {
  readonly path: string
  readonly id: string
  readonly kind: "supervisor" | "worker"
  /** For a supervisor. */
  readonly strategy: Nodes.Node["strategy"]
  readonly status: Status
  readonly incarnation: number
  readonly restarts: number
  /** The latest ten, oldest first. */
  readonly crashes: ReadonlyArray<Crash>
  readonly uptimeMillis: number
  /** Messages that wait, for a process that reports it. */
  readonly mailboxLength: number | undefined
  /** Messages handled by this instance, for a process that reports it. */
  readonly handled: number | undefined
  /** Former instances that did not stop in time and are still there. */
  readonly leaked: number
  readonly children: ReadonlyArray<Snapshot>
}

/**
 * No process runs at this path. Where a supervisor has a child there that is not up, `status` tells what it does instead;
 * else `known` lists the paths that there are.
 */
export class ProcessNotFound extends Schema.TaggedError<ProcessNotFound>()("ProcessNotFound", {
  path: Schema.String,
  status: Schema.optionalKey(Nodes.Status),
  known: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return this.status === undefined
      ? `no process runs at "${this.path}"; there are: ${this.known.join(", ") || "none"}`
      : `no process runs at "${this.path}": it is ${this.status}`
  }
}

/** A tree registry of its own, for what is built on top of this layer. */
export const layer: Layer.Layer<never> = Layer.effectContext(
  Effect.sync(() => Nodes.CurrentRegistry.context(Nodes.makeRegistry()))
)

/** Every root and all below it, children in start order. */
export const snapshot: Effect.Effect<ReadonlyArray<Snapshot>> = Effect.gen(function* () {
  const registry = yield* Nodes.CurrentRegistry
  const now = yield* Clock.currentTimeMillis
  return registry.roots.map((node) => toSnapshot(node, now))
})

/** The process at a path. */
export const get = (path: string): Effect.Effect<Snapshot, ProcessNotFound> =>
  Effect.flatMap(Nodes.CurrentRegistry, (registry) => {
    const node = Nodes.find(registry.roots, path)
    return node === undefined
      ? Effect.fail(notFound(registry, path))
      : Effect.map(Clock.currentTimeMillis, (now) => toSnapshot(node, now))
  })

/**
 * What happens from now on. Each subscriber has its own queue of 1024 events; a slow one loses its oldest and harms
 * nobody.
 */
export const changes: Stream.Stream<Event> = Stream.callback<Event>(
  (queue) =>
    Effect.gen(function* () {
      const registry = yield* Nodes.CurrentRegistry
      const listener = (event: Event): void => {
        Queue.offerUnsafe(queue, event)
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => registry.listeners.add(listener)),
        () => Effect.sync(() => registry.listeners.delete(listener))
      )
    }),
  { bufferSize: 1024, strategy: "sliding" }
)

/** The trees as text, one process a line. */
export const render: Effect.Effect<string> = Effect.map(snapshot, (roots) => roots.map(renderRoot).join("\n"))

/**
 * Crashes the process at a path: its supervisor sees the abnormal reason `Killed` and does what its strategy says. A
 * root that is killed stops its children and ends its application. Returns when the supervisor has been told. Fails where
 * no process runs that could be killed: it waits to be restarted, is being stopped, or has ended for good.
 */
export const kill = (path: string): Effect.Effect<void, ProcessNotFound> =>
  Effect.flatMap(Nodes.CurrentRegistry, (registry) => {
    const node = Nodes.find(registry.roots, path)
    return node?.kill?.(new Nodes.Killed({ path })) === true
      ? Effect.void
      : Effect.fail(notFound(registry, path, node?.status))
  })

const notFound = (registry: Nodes.Registry, path: string, status?: Status): ProcessNotFound => {
  const paths = (nodes: ReadonlyArray<Nodes.Node>): ReadonlyArray<string> =>
    nodes.flatMap((node) => [node.path, ...paths(node.children)])
  return new ProcessNotFound({ path, ...(status === undefined ? {} : { status }), known: paths(registry.roots) })
}

const toSnapshot = (node: Nodes.Node, now: number): Snapshot => {
  const report = reportOf(node)
  return {
    path: node.path,
    id: node.id,
    kind: node.kind,
    strategy: node.strategy,
    status: node.status,
    incarnation: node.incarnation,
    restarts: node.restarts,
    crashes: node.crashes,
    uptimeMillis: node.startedAt === undefined ? 0 : Math.max(0, now - node.startedAt),
    mailboxLength: report?.mailboxLength,
    handled: report?.handled,
    leaked: node.leaked,
    children: node.children.map((child) => toSnapshot(child, now))
  }
}

// A process whose report throws must not hide the tree.
const reportOf = (node: Nodes.Node): ReturnType<NonNullable<Nodes.Node["report"]>> | undefined => {
  try {
    return node.report?.()
  } catch {
    return undefined
  }
}

const renderRoot = (root: Snapshot): string => [describe(root), ...renderChildren(root, "")].join("\n")

const renderChildren = (node: Snapshot, indent: string): ReadonlyArray<string> =>
  node.children.flatMap((child, index) => {
    const last = index === node.children.length - 1
    return [
      `${indent}${last ? "└─" : "├─"} ${describe(child)}`,
      ...renderChildren(child, `${indent}${last ? "   " : "│  "}`)
    ]
  })

const describe = (node: Snapshot): string => {
  const parts = [node.strategy === undefined ? node.id : `${node.id} (${node.strategy})`, node.status]
  if (node.restarts > 0) {
    const cause = node.crashes.at(-1)?.cause
    const times = `${node.restarts} restart${node.restarts === 1 ? "" : "s"}`
    parts.push(cause === undefined ? times : `${times}, last: ${briefly(cause)}`)
  }
  if (node.mailboxLength !== undefined) parts.push(`mailbox ${node.mailboxLength}`)
  if (node.leaked > 0) parts.push(`${node.leaked} leaked`)
  return parts.join("  ")
}
