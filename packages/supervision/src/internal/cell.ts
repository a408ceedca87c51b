/**
 * A child's cell: which of its instances, if any, callers reach now. It outlives every instance, so whoever holds a
 * handle to the child holds the cell.
 */
import { Cause, Context, Effect, Exit, type Fiber } from "effect"
import { ChildUnavailable } from "../Child.ts"
import { Process } from "../Process.ts"
import type { Node } from "./nodes.ts"
import { endStructure, isStructure, type Structure } from "./structures.ts"

/** Why an instance cannot be reached. Made into an error only for those who ask, of whom there are mostly none. */
export interface Gone {
  readonly path: string
  readonly reason: ChildUnavailable["reason"]
  readonly cause: Cause.Cause<unknown>
}

/** The defect of a call that finds nothing, or loses what it found. */
export const unavailable = (gone: Gone): Exit.Exit<never> => Exit.die(new ChildUnavailable(gone))

/** One life of a child, as its callers see it. */
export interface Instance {
  readonly incarnation: number
  /** What its layer provides. */
  readonly services: ReadonlyMap<string, unknown>
  /** Why nothing may reach it any more. */
  gone: Gone | undefined
  /** Told once, when the instance is gone. */
  watchers: Set<(gone: Gone) => void> | undefined
  /** What others may wait in, once nobody reaches it through the child's handles. */
  orphans: ReadonlyArray<Structure> | undefined
}

export const makeInstance = (incarnation: number, context: Context.Context<never>): Instance => ({
  incarnation,
  services: context.mapUnsafe,
  gone: undefined,
  watchers: undefined,
  orphans: undefined
})

/** The handles there are: a child that provides one has it from another. */
export const handles = new WeakSet<object>()

// A structure that the next instance provides as well, or that is another child's, is not the instance's own.
const abandonStructures = (instance: Instance, successor: Instance | undefined): void => {
  const orphans: Array<Structure> = []
  for (const [key, service] of instance.services) {
    if (isStructure(service) && !handles.has(service) && successor?.services.get(key) !== service) orphans.push(service)
  }
  if (orphans.length > 0) instance.orphans = orphans
  if (instance.gone !== undefined) endStructures(instance, instance.gone)
}

const endStructures = (instance: Instance, gone: Gone): void => {
  const { orphans } = instance
  instance.orphans = undefined
  orphans?.forEach((structure) => endStructure(structure, Cause.die(new ChildUnavailable(gone))))
}

/** Ends every call that is still running on the instance. */
export const endInstance = (instance: Instance, gone: Gone): void => {
  if (instance.gone !== undefined) return
  instance.gone = gone
  const { watchers } = instance
  instance.watchers = undefined
  watchers?.forEach((watcher) => watcher(gone))
  endStructures(instance, gone)
}

/** Has a function told when the instance is gone, and returns how to take that back. */
export const watchInstance = (instance: Instance, watcher: (gone: Gone) => void): (() => void) => {
  const watchers = (instance.watchers ??= new Set())
  watchers.add(watcher)
  return () => watchers.delete(watcher)
}

/** The processes that are being stopped, or that were abandoned while they were. */
export const stopping = new WeakSet<Process["Service"]>()

const abandoned = new WeakSet<object>()
let anyAbandoned = false

/** Has nobody answer a process any more that was left behind, nor those below it: something else runs in its place. */
export const fence = (node: Node): void => {
  anyAbandoned = true
  if (node.process !== undefined) abandoned.add(node.process)
  node.children.forEach(fence)
}

/** Refuses what a process asks that was left behind. */
export const refusal = (context: Context.Context<never>, path: string): Exit.Exit<never> | undefined => {
  const caller = anyAbandoned ? Context.getOrUndefined(context, Process) : undefined
  return caller !== undefined && abandoned.has(caller)
    ? unavailable({ path, reason: "abandoned", cause: Cause.empty })
    : undefined
}

export class Cell {
  readonly path: string
  readonly whileDown: "wait" | "fail"
  /** How long an interrupted call may take to end before its caller is released without it. */
  patienceMillis: number
  current: Instance | undefined
  /** The last instance there was: what can be asked of a child without an effect is asked of it. */
  latest: Instance | undefined
  closed: Gone | undefined
  /** Not before its whole group is stopped will the child be up again. */
  private held = false
  /** In a group that is being stopped: the instance whose turn has not come. */
  private leaving: Instance | undefined
  private waiters: Set<(exit: Exit.Exit<Instance>) => void> | undefined

  constructor(path: string, whileDown: "wait" | "fail", patienceMillis: number) {
    this.path = path
    this.whileDown = whileDown
    this.patienceMillis = patienceMillis
  }

  up(instance: Instance): void {
    const former = this.latest
    this.current = instance
    this.latest = instance
    this.closed = undefined
    this.held = false
    this.leaving = undefined
    this.wake(Exit.succeed(instance))
    if (former !== undefined) abandonStructures(former, instance)
  }

  down(): void {
    this.current = undefined
    this.leaving = undefined
  }

  /**
   * The child's group is going to be restarted. Callers wait for the next instance, except those that are being stopped
   * before it: they still reach this one, and where it is gone already they do not wait for what waits for them.
   */
  hold(): void {
    this.leaving ??= this.current
    this.current = undefined
    this.held = true
  }

  /** The child will not come back, at least not by itself: nobody may wait for it. The first reason is the one told. */
  close(gone: Gone): void {
    this.current = undefined
    this.closed ??= gone
    if (this.waiters !== undefined) this.wake(unavailable(this.closed))
    if (this.latest !== undefined) abandonStructures(this.latest, undefined)
  }

  /** The running instance: waited for while the child restarts, a defect when there is none to wait for. */
  readonly instance: Effect.Effect<Instance> = Effect.withFiber((fiber) => {
    if (this.current !== undefined) return Effect.succeed(this.current)
    const caller = this.held ? Context.getOrUndefined(fiber.context, Process) : undefined
    const leaves = caller !== undefined && stopping.has(caller)
    if (leaves && this.leaving !== undefined) return Effect.succeed(this.leaving)
    if (this.closed !== undefined) return unavailable(this.closed)
    if (leaves || this.whileDown === "fail") {
      return unavailable({ path: this.path, reason: "restarting", cause: Cause.empty })
    }
    return Effect.callback<Instance>((resume) => {
      const waiters = (this.waiters ??= new Set())
      waiters.add(resume)
      return Effect.sync(() => {
        waiters.delete(resume)
      })
    })
  })

  private wake(exit: Exit.Exit<Instance>): void {
    const { waiters } = this
    this.waiters = undefined
    waiters?.forEach((resume) => resume(exit))
  }
}

/**
 * Runs a call on an instance, and ends it with a defect when the instance is gone before it.
 *
 * The call has a fiber of its own, so that it can be left without leaving the caller; a call that never suspends costs
 * little more than running it. The instance's death ends the call of an uninterruptible caller as well: it could wait
 * for ever for what is gone.
 */
export const callOn = <A, E, R>(
  cell: Cell,
  instance: Instance,
  context: Context.Context<R>,
  call: Effect.Effect<A, E, R>,
  onEnd: () => void
): Effect.Effect<A, E> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => {
      const fiber = Effect.runForkWith(context)(call)
      const finished = fiber.pollUnsafe()
      if (finished !== undefined) {
        onEnd()
        return finished
      }
      fiber.addObserver(onEnd)
      return restore(await_(cell, instance, fiber))
    })
  )

const await_ = <A, E>(cell: Cell, instance: Instance, fiber: Fiber.Fiber<A, E>): Effect.Effect<A, E> =>
  Effect.callback<A, E>((resume) => {
    let tell = resume
    let left: Exit.Exit<never> | undefined
    let patience: Fiber.Fiber<void> | undefined
    let unwatch = () => {}
    const leave = (gone: Gone): void => {
      const exit = unavailable(gone)
      left = exit
      fiber.interruptUnsafe()
      if (fiber.pollUnsafe() !== undefined) return
      patience = Effect.runForkWith(fiber.context)(
        Effect.sync(() => tell(exit)).pipe(Effect.delay(cell.patienceMillis))
      )
    }
    fiber.addObserver((exit) => {
      unwatch()
      patience?.interruptUnsafe()
      tell(left !== undefined && Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) ? left : exit)
    })
    if (instance.gone !== undefined) leave(instance.gone)
    else if (fiber.pollUnsafe() === undefined) unwatch = watchInstance(instance, leave)
    // A caller that is interrupted waits for the end of its call, but for no dead instance either.
    return Effect.withFiber((caller) =>
      Effect.callback<void>((ended) => {
        tell = () => ended(Effect.void)
        fiber.interruptUnsafe(caller.id)
        if (fiber.pollUnsafe() !== undefined) ended(Effect.void)
      })
    )
  })
