/**
 * A running supervisor: which children are started, stopped and started again, in which order.
 *
 * One loop takes the ends of children, one at a time, and decides; what it decides is carried out by operations, each a
 * fiber of its own. So a child whose start waits for a sibling that is down does not keep that sibling from coming back.
 */
import { Cause, Context, Deferred, Effect, Exit, type Fiber, Metric, Queue, Schedule } from "effect"
import type { Any } from "../Child.ts"
import { Process } from "../Process.ts"
import { ChildState, type Environment, type Life, monotonicMillis } from "./child.ts"
import { MaxRestartsExceeded, StartError } from "./errors.ts"
import { addRestart, type Intensity } from "./intensity.ts"
import { find, freePath, type Killed, makeNode, type Node, publish, tellEnd } from "./nodes.ts"
import { isCrash } from "./watch.ts"

export interface Options {
  readonly strategy: "one_for_one" | "one_for_all" | "rest_for_one"
  readonly intensity: Intensity
  readonly children: ReadonlyArray<Any>
}

type Message =
  | {
      readonly _tag: "Ended"
      readonly child: ChildState
      readonly life: Life
      readonly exit: Exit.Exit<unknown, unknown>
    }
  | { readonly _tag: "Done"; readonly operation: Operation; readonly exit: Exit.Exit<void, Failure> }
  | { readonly _tag: "Killed"; readonly reason: Killed }

/** A start that failed, or a backoff schedule that ended. */
interface Failure {
  readonly child: ChildState
  readonly cause: Cause.Cause<unknown>
  readonly final: boolean
}

interface Operation {
  readonly children: ReadonlyArray<ChildState>
  /** How many of the children it has dealt with. */
  started: number
  /** Another operation has taken its children over. */
  superseded: boolean
  fiber: Fiber.Fiber<void, Failure> | undefined
}

const gaveUpTotal = Metric.counter("coppice_supervisor_gave_up_total", {
  description: "supervisors that exceeded their restart intensity",
  incremental: true
})

export class SupervisorRuntime {
  readonly env: Environment
  readonly node: Node
  readonly options: Options
  readonly ready = Deferred.makeUnsafe<void, StartError>()
  private readonly mailbox: Queue.Queue<Message>
  private readonly restarts: Array<number> = []
  private readonly operations = new Set<Operation>()
  private readonly own: ReadonlySet<Node>
  /** All there ever were: the services of one that is gone stay, and say that it has finished. */
  private readonly everyChild: ReadonlyArray<ChildState>
  private children: ReadonlyArray<ChildState>
  private readonly removed = new WeakSet<ChildState>()
  private readonly incarnation: number
  private readonly onEnding: (cause: Cause.Cause<MaxRestartsExceeded | Killed>) => void
  private closing = false
  /** All its children have been up. */
  isUp = false

  /** `onEnding` is called when it has decided to end by itself, before it stops its children. */
  constructor(
    env: Environment,
    mailbox: Queue.Queue<Message>,
    node: Node,
    options: Options,
    onEnding: SupervisorRuntime["onEnding"]
  ) {
    this.onEnding = onEnding
    this.env = env
    this.mailbox = mailbox
    this.node = node
    this.incarnation = node.incarnation
    this.options = options
    this.everyChild = options.children.map(
      (spec) =>
        new ChildState(node.path, spec, env, (child, life, exit) => this.tell({ _tag: "Ended", child, life, exit }))
    )
    this.children = this.everyChild
    this.own = new Set(this.children.map((child) => child.node))
    this.showChildren()
  }

  private tell(message: Message): void {
    Queue.offerUnsafe(this.mailbox, message)
  }

  private showChildren(): void {
    // Abandoned, and something else runs in its place.
    if (this.node.incarnation !== this.incarnation) return
    // Nodes that are not children belong to another supervisor of the same process.
    const others = this.node.children.filter((node) => !this.own.has(node))
    this.node.children = [...this.children.map((child) => child.node), ...others]
  }

  /** The context with what the children provide, or those before one of them: of several for a key, the last one's. */
  provided(context: Context.Context<never>, before?: ChildState): Context.Context<never> {
    const services = new Map(context.mapUnsafe)
    for (const child of this.everyChild) {
      if (child === before) break
      for (const [key, { handle }] of child.handles) services.set(key, handle)
    }
    return Context.makeUnsafe(services)
  }

  /** Ends it like a process that was killed, unless it ends already. */
  kill(reason: Killed): boolean {
    if (this.closing) return false
    this.tell({ _tag: "Killed", reason })
    return true
  }

  /** Starts the children and then restarts them until the supervisor gives up. */
  readonly run: Effect.Effect<never, MaxRestartsExceeded | Killed> = Effect.suspend(() => {
    this.begin(this.children, undefined, Exit.void)
    return Effect.forever(
      Effect.flatMap(Queue.take(this.mailbox), (message) => this.receive(message)),
      {
        disableYield: true
      }
    )
  })

  receive(message: Message): Effect.Effect<void, MaxRestartsExceeded | Killed> {
    if (this.closing) return Effect.void
    switch (message._tag) {
      case "Ended":
        return this.ended(message.child, message.life, message.exit)
      case "Done":
        return this.done(message.operation, message.exit)
      case "Killed":
        return this.end(message.reason, "stopped")
    }
  }

  // ------------------------------------------------------------------------------------------------------------------
  // decisions
  // ------------------------------------------------------------------------------------------------------------------

  private ended(child: ChildState, life: Life, exit: Exit.Exit<unknown, unknown>) {
    // A former life, or one that an operation is already about to stop.
    if (child.life !== life || child.node.status !== "running") return Effect.void
    const abnormal = Exit.isFailure(exit)
    const recorded = abnormal ? child.crashed(exit, "Crashed") : Effect.void
    const restart = child.spec.options.restart ?? "permanent"
    if (restart === "temporary" || (restart === "transient" && !abnormal)) {
      child.node.status = "stopping"
      return Effect.andThen(recorded, this.finish(child, exit, restart === "temporary"))
    }
    return Effect.andThen(recorded, this.restart(child, exit, false))
  }

  private done(operation: Operation, exit: Exit.Exit<void, Failure>): Effect.Effect<void, MaxRestartsExceeded> {
    this.operations.delete(operation)
    if (Exit.isSuccess(exit)) {
      if (this.children.every((child) => child.hasStarted)) {
        this.isUp = true
        Deferred.doneUnsafe(this.ready, Exit.void)
      }
      return Effect.void
    }
    if (operation.superseded) return Effect.void
    const failed = exit.cause.reasons.find(Cause.isFailReason)?.error
    if (failed === undefined) return Effect.die(Cause.squash(exit.cause))
    const { cause, child, final } = failed
    const end = Exit.failCause(cause)
    if (!child.hasStarted) {
      this.closing = true
      Deferred.doneUnsafe(this.ready, Exit.fail(startError(child.path, cause)))
      return Effect.void
    }
    if (final) return this.giveUp(child, end, "backoff")
    return Effect.andThen(child.crashed(end, "StartFailed"), this.restart(child, end, true))
  }

  private restart(
    child: ChildState,
    exit: Exit.Exit<unknown, unknown>,
    again: boolean
  ): Effect.Effect<void, MaxRestartsExceeded> {
    const now = monotonicMillis(this.env.clock)
    const upSince = child.life?.upSince
    if (upSince !== undefined && now - upSince >= this.options.intensity.withinMillis) child.backoff = undefined
    if (!addRestart(this.restarts, now, this.options.intensity)) return this.giveUp(child, exit, "maxRestarts")
    child.node.restarts++
    const { strategy } = this.options
    const affected =
      strategy === "one_for_one"
        ? [child]
        : strategy === "one_for_all"
          ? this.children
          : this.children.slice(this.children.indexOf(child))
    // Failing starts must not keep everybody else from running.
    return Effect.andThen(
      again ? Effect.yieldNow : Effect.void,
      Effect.sync(() => this.begin(affected, child, exit))
    )
  }

  private giveUp(
    child: ChildState,
    exit: Exit.Exit<unknown, unknown>,
    limit: MaxRestartsExceeded["limit"]
  ): Effect.Effect<never, MaxRestartsExceeded> {
    const { maxRestarts, withinMillis } = this.options.intensity
    const reason = Exit.isFailure(exit) ? exit.cause : Cause.empty
    const error = new MaxRestartsExceeded({
      path: this.node.path,
      child: child.path,
      limit,
      maxRestarts,
      withinMillis,
      reason
    })
    publish(this.env.registry, { _tag: "GaveUp", path: this.node.path, at: child.now(), cause: reason })
    return Effect.logError("supervisor gave up", reason).pipe(
      Effect.annotateLogs({ path: this.node.path, child: child.path, maxRestarts, withinMillis }),
      Effect.andThen(Metric.update(Metric.withAttributes(gaveUpTotal, { path: this.node.path }), 1)),
      Effect.andThen(
        Effect.sync(() => {
          if (!child.hasStarted || !this.children.every((c) => c.hasStarted)) {
            Deferred.doneUnsafe(this.ready, Exit.fail(startError(child.path, reason)))
          }
        })
      ),
      Effect.andThen(this.end(error, "gave up", reason))
    )
  }

  private end<E extends MaxRestartsExceeded | Killed>(
    error: E,
    how: "stopped" | "gave up",
    reason?: Cause.Cause<unknown>
  ): Effect.Effect<never, E> {
    return Effect.suspend(() => {
      this.onEnding(Cause.fail(error))
      return Effect.andThen(this.stopAll(how, reason), Effect.fail(error))
    })
  }

  // ------------------------------------------------------------------------------------------------------------------
  // operations
  // ------------------------------------------------------------------------------------------------------------------

  /** Stops those of `affected` that run, in reverse order, then starts them all in order. */
  private begin(
    affected: ReadonlyArray<ChildState>,
    trigger: ChildState | undefined,
    exit: Exit.Exit<unknown, unknown>
  ): void {
    const before: Array<Operation> = []
    for (const operation of this.operations) {
      if (operation.children.some((child, index) => index >= operation.started && affected.includes(child))) {
        before.push(operation)
        operation.superseded = true
        operation.fiber?.interruptUnsafe()
      }
    }
    for (const child of affected) {
      // From here on an end of this life is expected.
      if (child === trigger) child.node.status = "restarting"
      else if (child.life !== undefined) child.node.status = "stopping"
      if (affected.length > 1) child.cell.hold()
      else child.cell.down()
    }
    const operation: Operation = { children: affected, started: 0, superseded: false, fiber: undefined }
    this.operations.add(operation)
    const work = this.work(operation, before, trigger, exit).pipe(
      Effect.withSpan(
        trigger === undefined ? "Supervisor.start" : "Supervisor.restart",
        { attributes: { supervisor: this.node.path, child: trigger?.path } },
        { captureStackTrace: false }
      )
    )
    operation.fiber = Effect.runForkWith(this.env.context)(work)
    operation.fiber.addObserver((done) => this.tell({ _tag: "Done", operation, exit: done }))
  }

  private work(
    operation: Operation,
    before: ReadonlyArray<Operation>,
    trigger: ChildState | undefined,
    exit: Exit.Exit<unknown, unknown>
  ): Effect.Effect<void, Failure> {
    const self = this
    return Effect.gen(function* () {
      for (const { fiber } of before) if (fiber !== undefined) yield* awaitEnd(fiber)
      for (const child of operation.children.toReversed()) {
        if (child.life === undefined) continue
        const stop =
          child === trigger
            ? child.stop(exit, Exit.isFailure(exit) ? "crashed" : "stopped")
            : child.stop(Exit.void, "stopped")
        // At one go: a temporary child that was stopped must be gone when another operation takes over.
        yield* child !== trigger && child.spec.options.restart === "temporary"
          ? Effect.uninterruptible(Effect.andThen(stop, self.remove(child)))
          : stop
      }
      if (trigger !== undefined) yield* self.backoff(trigger, exit)
      let context = self.provided(self.env.context, operation.children[0])
      for (const child of operation.children) {
        if (!self.removed.has(child)) {
          yield* child
            .start(context)
            .pipe(Effect.catchCause((cause) => Effect.fail<Failure>({ child, cause, final: false })))
        }
        for (const { handle, tag } of child.handles.values()) context = Context.add(context, tag, handle)
        operation.started++
      }
    })
  }

  private backoff(child: ChildState, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void, Failure> {
    const schedule = child.spec.options.backoff
    if (schedule === undefined) return Effect.void
    const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty
    child.node.status = "restarting"
    return Effect.gen({ self: this }, function* () {
      child.backoff ??= yield* Schedule.toStep(schedule as Schedule.Schedule<unknown, unknown>)
      const [, delay] = yield* Effect.catchCause(child.backoff(child.now(), cause), (ended) =>
        Effect.fail<Failure>({
          child,
          cause: isCrash(Exit.failCause(ended)) ? Cause.combine(cause, ended) : cause,
          final: true
        })
      )
      yield* Effect.sleep(delay)
    })
  }

  // A child that is not started again: a temporary one is forgotten, a transient one is kept for its group.
  private finish(child: ChildState, exit: Exit.Exit<unknown, unknown>, forget: boolean): Effect.Effect<void> {
    const done = Effect.gen({ self: this }, function* () {
      yield* child.stop(exit, "finished")
      child.cell.close({ path: child.path, reason: "finished", cause: causeOf(exit) })
      child.node.status = "finished"
      publish(this.env.registry, { _tag: "Finished", path: child.path, at: child.now() })
      if (forget) yield* this.remove(child)
    }).pipe(Effect.uninterruptible)
    return Effect.sync(() => {
      const operation: Operation = { children: [child], started: 0, superseded: false, fiber: undefined }
      this.operations.add(operation)
      operation.fiber = Effect.runForkWith(this.env.context)(done)
      operation.fiber.addObserver((exit) => this.tell({ _tag: "Done", operation, exit }))
    })
  }

  private remove(child: ChildState): Effect.Effect<void> {
    return Effect.sync(() => {
      child.cell.close({ path: child.path, reason: "finished", cause: Cause.empty })
      this.removed.add(child)
      this.children = this.children.filter((other) => other !== child)
      this.showChildren()
    })
  }

  /** Stops everything in reverse order, for good. Calls that wait for a child that is down end at once. */
  readonly stopAll = (reason: "stopped" | "gave up", cause: Cause.Cause<unknown> = Cause.empty): Effect.Effect<void> =>
    Effect.uninterruptible(
      Effect.gen({ self: this }, function* () {
        this.closing = true
        const gone = (child: ChildState) => ({ path: child.path, reason, cause })
        for (const child of this.children) if (child.cell.current === undefined) child.cell.close(gone(child))
        for (const { fiber } of this.operations) fiber?.interruptUnsafe()
        for (const { fiber } of this.operations) if (fiber !== undefined) yield* awaitEnd(fiber)
        for (const child of this.children.toReversed()) {
          child.cell.close(gone(child))
          yield* child.stop(child.life?.end ?? Exit.void, reason)
        }
      })
    )
}

const awaitEnd = (fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<void> =>
  Effect.callback((resume) => {
    fiber.addObserver(() => resume(Effect.void))
  })

const causeOf = (exit: Exit.Exit<unknown, unknown>): Cause.Cause<unknown> =>
  Exit.isFailure(exit) ? exit.cause : Cause.empty

// A nested supervisor has named the path to the innermost child already.
const startError = (path: string, cause: Cause.Cause<unknown>): StartError => {
  const inner: unknown = Cause.squash(cause)
  return inner instanceof StartError && `${inner.path}/`.startsWith(`${path}/`)
    ? inner
    : new StartError({ path, reason: cause })
}

/** A supervisor's place in the tree. */
export interface Registration {
  readonly node: Node
  /** Called when the supervisor is going to end by itself, and stops its children first. */
  readonly ending: () => void
  /** Called when it has. */
  readonly ended: (exit: Exit.Exit<unknown, unknown>) => void
  /** Called when its layer is closed. */
  readonly unregister: () => void
}

/** Registers a supervisor in the tree: below the process whose layer it is in, else as a root. */
export const register = (env: Environment, name: string, strategy: Options["strategy"]): Registration => {
  const process = Context.getOrUndefined(env.context, Process)
  const parent = process === undefined ? undefined : find(env.registry.roots, process.path)
  if (parent?.kind === "worker") {
    const { incarnation } = parent
    Object.assign(parent, { kind: "supervisor", name, strategy })
    return {
      node: parent,
      ending: () => {},
      ended: () => {},
      unregister: () => {
        if (parent.incarnation !== incarnation) return
        Object.assign(parent, { kind: "worker", name: undefined, strategy: undefined, children: [] })
      }
    }
  }
  // A root, or a second supervisor in one layer, which shows below the first.
  const siblings = parent?.children ?? env.registry.roots
  const node = makeNode(freePath(siblings, parent === undefined ? name : `${parent.path}/${name}`), name)
  Object.assign(node, {
    kind: "supervisor",
    name,
    strategy,
    status: "running",
    incarnation: 1,
    startedAt: env.clock.currentTimeMillisUnsafe(),
    monitors: new Set()
  })
  if (parent === undefined) env.registry.roots.push(node)
  else parent.children = [...parent.children, node]
  return {
    node,
    ending: () => {
      node.status = "stopping"
    },
    ended: (exit) => {
      node.status = "stopped"
      tellEnd(node, exit, false)
    },
    unregister: () => {
      tellEnd(node, Exit.void, true)
      if (parent === undefined) env.registry.roots.splice(env.registry.roots.indexOf(node), 1)
      else parent.children = parent.children.filter((child) => child !== node)
    }
  }
}
