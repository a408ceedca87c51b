/** One child of a running supervisor: starting an instance of it, and stopping one. */
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber, Layer, Metric, type Schedule, Scope } from "effect"
import type { Any, ChildUnavailable } from "../Child.ts"
import { Process } from "../Process.ts"
import { Cell, endInstance, fence, type Instance, makeInstance, stopping } from "./cell.ts"
import { StartTimeout } from "./errors.ts"
import * as handle from "./handle.ts"
import { CurrentRegistry, makeNode, type Node, publish, type Registry, tellEnd } from "./nodes.ts"
import { isCrash, watch } from "./watch.ts"

/** What the children of one supervisor share. */
export interface Environment {
  readonly context: Context.Context<never>
  readonly memoMap: Layer.MemoMap
  readonly registry: Registry
  readonly clock: Clock.Clock
}

export const makeEnvironment = (context: Context.Context<never>): Environment => ({
  context,
  memoMap: Layer.CurrentMemoMap.forkOrCreate(context),
  registry: Context.get(context, CurrentRegistry),
  clock: Context.get(context, Clock.Clock)
})

/** One life of the child, from its first step to the last finalizer. */
export interface Life {
  readonly incarnation: number
  readonly scope: Scope.Closeable
  process: Process["Service"] | undefined
  /** What the callers reach, once it is up. */
  instance: Instance | undefined
  /** Monotonic milliseconds. */
  upSince: number | undefined
  /** The first end that was reported. */
  end: Exit.Exit<unknown, unknown> | undefined
  building: Fiber.Fiber<Context.Context<never>, unknown> | undefined
  failStart: ((exit: Exit.Exit<unknown, unknown>) => void) | undefined
  stopping: boolean
  /** Its crash has been told. */
  reported: boolean
}

const restartsTotal = Metric.counter("coppice_supervisor_restarts_total", {
  description: "children that were started again",
  incremental: true
})
const crashesTotal = Metric.counter("coppice_supervisor_crashes_total", {
  description: "abnormal ends of children, failed restarts included",
  incremental: true
})
const leakedChildren = Metric.gauge("coppice_supervisor_leaked_children", {
  description: "instances that outlived their shutdown timeout and are still there"
})

/** A handle and the tag it is provided under. */
interface Provided {
  readonly tag: Context.Service<unknown, unknown>
  readonly handle: unknown
}

const none: ReadonlyMap<string, Provided> = new Map()

const defaultShutdownMillis = 5000

export class ChildState {
  readonly spec: Any
  readonly node: Node
  readonly cell: Cell
  readonly env: Environment
  /** Called with the end of a life that was up. */
  readonly onEnd: (child: ChildState, life: Life, exit: Exit.Exit<unknown, unknown>) => void
  handles: ReadonlyMap<string, Provided> = none
  life: Life | undefined
  hasStarted = false
  backoff: Effect.Success<ReturnType<typeof Schedule.toStep<unknown, unknown, never, never>>> | undefined

  constructor(parentPath: string, spec: Any, env: Environment, onEnd: ChildState["onEnd"]) {
    const path = `${parentPath}/${spec.id}`
    this.spec = spec
    this.env = env
    this.onEnd = onEnd
    this.node = makeNode(path, spec.id)
    this.node.kill = (reason) => {
      const { life } = this
      if (life === undefined || life.stopping) return false
      this.ended(life, Exit.die(reason))
      return true
    }
    this.cell = new Cell(path, spec.options.whileDown ?? "wait", this.shutdownMillis ?? defaultShutdownMillis)
  }

  get path(): string {
    return this.node.path
  }

  /** Milliseconds to wait for a stop; none is for ever. */
  get shutdownMillis(): number | undefined {
    const shutdown = this.spec.options.shutdown
    if (shutdown === "infinity") return undefined
    if (shutdown === "brutal_kill") return 0
    if (shutdown !== undefined) return Duration.toMillis(Duration.fromInputUnsafe(shutdown))
    return this.node.kind === "supervisor" ? undefined : defaultShutdownMillis
  }

  now(): number {
    return this.env.clock.currentTimeMillisUnsafe()
  }

  // A report of any fiber of a life. Only the first counts, and only while it is the child's life.
  private ended(life: Life, exit: Exit.Exit<unknown, unknown>): void {
    if (life.stopping) {
      if (isCrash(exit)) this.log("Warn", "child failed while it was being stopped", exit)
      return
    }
    if (life.end !== undefined || this.life !== life) return
    life.end = exit
    if (life.instance !== undefined) {
      // Who calls from here on waits for the next life.
      this.cell.down()
      // What crashed cannot answer any more; what is stopped in order may finish what it is doing.
      if (isCrash(exit)) this.endCalls(life, exit, "crashed")
      this.onEnd(this, life, exit)
    } else if (isCrash(exit)) {
      life.failStart?.(exit)
    }
  }

  /**
   * Starts the next life: builds the layer in a fresh scope, given the services of the children before it. Fails with
   * the cause of whatever failed first; nothing of the life is left then.
   */
  readonly start = (siblings: Context.Context<never>): Effect.Effect<void, unknown> =>
    Effect.suspend(() => {
      const { env, node, spec } = this
      node.incarnation++
      // A former life that was abandoned may still be what it was.
      Object.assign(node, { kind: "worker", name: undefined, strategy: undefined, children: [] })
      node.status = this.hasStarted ? "restarting" : "starting"
      const life: Life = {
        incarnation: node.incarnation,
        scope: Scope.makeUnsafe(),
        process: undefined,
        instance: undefined,
        upSince: undefined,
        end: undefined,
        building: undefined,
        failStart: undefined,
        stopping: false,
        reported: false
      }
      const process = this.process(life)
      life.process = process
      node.process = process
      this.life = life
      node.report = undefined
      const onCrash = (exit: Exit.Exit<unknown, unknown>) => this.ended(life, exit)
      const memoMap =
        spec.options.linkFibers === false
          ? Layer.forkMemoMapUnsafe(env.memoMap)
          : watch(env.memoMap, life.scope, onCrash, spec.start._tag === "Layer")
      const context = siblings.pipe(
        Context.add(Process, process),
        Context.add(Scope.Scope, life.scope),
        Context.add(Layer.CurrentMemoMap, memoMap)
      )
      // The layer's requirements were checked where the supervisor was composed; here they are in the context.
      const build = (
        spec.start._tag === "Layer"
          ? Layer.buildWithMemoMap(spec.start.layer, memoMap, life.scope)
          : this.startEffect(life, spec.start.effect)
      ) as Effect.Effect<Context.Context<never>, unknown>
      life.building = Effect.runForkWith(context)(build)
      return Effect.flatMap(this.built(life, life.building), (provided) => this.up(life, provided))
    }).pipe(
      Effect.onExit((exit) =>
        Exit.isFailure(exit) && this.life !== undefined && this.life.instance === undefined
          ? this.stop(Exit.failCause(exit.cause), "crashed")
          : Effect.void
      )
    )

  // Waits for the layer to be built, for a crash of one of its fibers, or for the start timeout.
  private built(
    life: Life,
    building: Fiber.Fiber<Context.Context<never>, unknown>
  ): Effect.Effect<Context.Context<never>, unknown> {
    if (life.end !== undefined && Exit.isFailure(life.end)) return Exit.failCause(life.end.cause)
    const early = building.pollUnsafe()
    if (early !== undefined) return early
    const wait = Effect.callback<Context.Context<never>, unknown>((resume) => {
      life.failStart = (exit) => {
        if (Exit.isFailure(exit)) resume(Exit.failCause(exit.cause))
      }
      building.addObserver(resume)
    })
    const limit = this.spec.options.startTimeout
    return limit === undefined
      ? wait
      : Effect.timeoutOrElse(wait, {
          duration: limit,
          orElse: () =>
            Effect.fail(
              new StartTimeout({ path: this.path, millis: Duration.toMillis(Duration.fromInputUnsafe(limit)) })
            )
        })
  }

  private startEffect(life: Life, effect: Effect.Effect<unknown, unknown, unknown>) {
    return Effect.map(Effect.forkIn(effect, life.scope), (fiber) => {
      fiber.addObserver((exit) => {
        // Stopped by itself is a normal end; interrupted by a stranger, who may have no id, is not.
        const interrupts =
          Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
            ? exit.cause.reasons.filter(Cause.isInterruptReason)
            : []
        const own = interrupts.length > 0 && interrupts.every(({ fiberId }) => fiberId === fiber.id)
        this.ended(life, own ? Exit.void : exit)
      })
      return Context.empty()
    })
  }

  private process(life: Life): Process["Service"] {
    const onCrash = (exit: Exit.Exit<unknown, unknown>) => {
      if (isCrash(exit)) this.ended(life, exit)
    }
    return Process.of({
      path: this.path,
      name: this.spec.id,
      incarnation: life.incarnation,
      link: (effect) =>
        Effect.tap(Effect.forkIn(effect, life.scope), (fiber) => Effect.sync(() => fiber.addObserver(onCrash))),
      exit: (reason) => Effect.sync(() => this.ended(life, reason)),
      report: (report) =>
        Effect.sync(() => {
          if (this.life === life) this.node.report = report
        })
    })
  }

  private up(life: Life, provided: Context.Context<never>): Effect.Effect<void> {
    const { node } = this
    const instance = makeInstance(life.incarnation, provided)
    life.instance = instance
    life.upSince = monotonicMillis(this.env.clock)
    this.hasStarted = true
    this.cell.patienceMillis = this.shutdownMillis ?? defaultShutdownMillis
    this.cell.up(instance)
    if (this.handles.size < instance.services.size - 1) {
      const handles = new Map(this.handles)
      for (const [key, service] of instance.services) {
        if (handles.has(key) || key === Layer.CurrentMemoMap.key) continue
        handles.set(key, { tag: Context.Service(key), handle: handle.make(this.cell, key, service) })
      }
      this.handles = handles
    }
    node.status = "running"
    node.startedAt = this.now()
    node.monitors = new Set()
    const { incarnation } = life
    const restarted = incarnation > 1
    publish(this.env.registry, {
      _tag: restarted ? "Restarted" : "Started",
      path: this.path,
      at: this.now(),
      incarnation
    })
    if (life.end !== undefined) {
      this.cell.down()
      if (isCrash(life.end)) this.endCalls(life, life.end, "crashed")
      this.onEnd(this, life, life.end)
    }
    return restarted
      ? Effect.andThen(
          Metric.update(Metric.withAttributes(restartsTotal, { path: this.path }), 1),
          this.logging("Info", "child restarted")
        )
      : this.logging("Info", "child started")
  }

  /** Records an abnormal end or a failed restart. */
  readonly crashed = (exit: Exit.Exit<unknown, unknown>, event: "Crashed" | "StartFailed"): Effect.Effect<void> => {
    const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty
    const at = this.now()
    if (this.life !== undefined) this.life.reported = true
    this.node.crashes = [...this.node.crashes.slice(-9), { at, cause }]
    publish(this.env.registry, { _tag: event, path: this.path, at, cause })
    return Effect.andThen(
      Metric.update(Metric.withAttributes(crashesTotal, { path: this.path }), 1),
      this.logging("Error", event === "Crashed" ? "child crashed" : "child failed to restart", exit)
    )
  }

  /**
   * Stops the child's life, if it has one: closes its scope and waits as long as its shutdown allows. Its calls end with
   * it, or when it is abandoned.
   */
  readonly stop = (exit: Exit.Exit<unknown, unknown>, reason: ChildUnavailable["reason"]): Effect.Effect<void> =>
    Effect.uninterruptible(
      Effect.suspend(() => {
        const life = this.life
        if (life === undefined) return Effect.void
        life.stopping = true
        if (life.process !== undefined) stopping.add(life.process)
        this.node.status = "stopping"
        this.cell.down()
        // A crash while others were stopped before it has been told to nobody yet.
        const unreported = life.instance !== undefined && !life.reported ? life.end : undefined
        return unreported !== undefined && isCrash(unreported)
          ? Effect.andThen(
              this.crashed(unreported, "Crashed"),
              Effect.suspend(() => this.close(life, unreported, reason))
            )
          : this.close(life, exit, reason)
      })
    )

  private close(
    life: Life,
    exit: Exit.Exit<unknown, unknown>,
    reason: ChildUnavailable["reason"]
  ): Effect.Effect<void> {
    const closing = Effect.runForkWith(this.env.context)(
      Effect.andThen(
        life.building?.pollUnsafe() === undefined && life.building !== undefined
          ? Fiber.interrupt(life.building)
          : Effect.void,
        Scope.close(life.scope, exit)
      ),
      { uninterruptible: true }
    )
    const finish = Effect.suspend(() => this.finishStop(life, exit, reason, closing.pollUnsafe()))
    if (closing.pollUnsafe() !== undefined) return finish
    const limit = this.shutdownMillis
    if (limit === undefined) return Effect.andThen(Fiber.await(closing), finish)
    const stopped = limit === 0 ? Effect.void : Effect.timeoutOption(Fiber.await(closing), limit)
    return Effect.andThen(
      stopped,
      Effect.suspend(() => {
        if (closing.pollUnsafe() !== undefined) return finish
        return Effect.andThen(this.abandon(closing, limit), finish)
      })
    )
  }

  private finishStop(
    life: Life,
    exit: Exit.Exit<unknown, unknown>,
    reason: ChildUnavailable["reason"],
    closed: Exit.Exit<unknown, unknown> | undefined
  ): Effect.Effect<void> {
    const { node } = this
    if (this.life === life) this.life = undefined
    node.status = "stopped"
    node.report = undefined
    node.startedAt = undefined
    this.endCalls(life, exit, reason)
    tellEnd(node, life.end ?? exit, life.end === undefined)
    publish(this.env.registry, { _tag: "Stopped", path: this.path, at: this.now() })
    return closed !== undefined && isCrash(closed)
      ? this.logging("Warn", "child's finalizers failed", closed)
      : Effect.void
  }

  private endCalls(life: Life, exit: Exit.Exit<unknown, unknown>, reason: ChildUnavailable["reason"]): void {
    if (life.instance === undefined) return
    const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty
    endInstance(life.instance, { path: this.path, reason, cause })
  }

  // There is no way to kill a fiber: what will not end is left behind, in the open.
  private abandon(closing: Fiber.Fiber<unknown, unknown>, limit: number): Effect.Effect<void> {
    const { env, node } = this
    node.leaked++
    fence(node)
    publish(env.registry, { _tag: "Leaked", path: this.path, at: this.now() })
    const gauge = Metric.withAttributes(leakedChildren, { path: this.path })
    closing.addObserver(() => {
      node.leaked--
      Effect.runForkWith(env.context)(
        Effect.andThen(Metric.modify(gauge, -1), this.logging("Info", "leaked child has ended after all"))
      )
    })
    return Effect.andThen(
      Metric.modify(gauge, 1),
      limit === 0
        ? this.logging("Info", "child is not waited for while it stops: it counts as leaked until it has")
        : this.logging("Error", "child did not stop in time and was abandoned: it is leaked")
    )
  }

  private log(level: "Warn", message: string, exit: Exit.Exit<unknown, unknown>): void {
    Effect.runForkWith(this.env.context)(this.logging(level, message, exit))
  }

  private logging(
    level: "Info" | "Warn" | "Error",
    message: string,
    exit?: Exit.Exit<unknown, unknown>
  ): Effect.Effect<void> {
    const parts = exit !== undefined && Exit.isFailure(exit) ? [message, exit.cause] : [message]
    return Effect.logWithLevel(level)(...parts).pipe(
      Effect.annotateLogs({ path: this.path, incarnation: this.node.incarnation, restarts: this.node.restarts })
    )
  }
}

export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
