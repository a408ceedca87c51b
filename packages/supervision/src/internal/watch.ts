/**
 * Sees the fibers that a layer forks into its own scope, without the layer's help.
 *
 * A layer is built against a `MemoMap`, and every memoised layer gets its scope from that map. `watch` builds a layer
 * against a map that hands out the same scopes, made to report the fibers registered in them. Only scopes that belong to
 * the building of layers are watched: the child's root, the forks that layer combinators make below it, and the scope of
 * each memoised layer. A scope that the layer's own code makes or forks is its private business, and a fiber that fails
 * there is not a crash.
 *
 * A layer that the layer's own code builds in its own scope (`Layer.build`) belongs to the child as well. Such a build
 * forks the map and, with the fork as its `CurrentMemoMap`, a scope: that is when both become known.
 *
 * Stands on the public interfaces `Layer.MemoMap` and `Scope.State`; `watch.assumptions.test.ts` fails when a new Effect version
 * changes what is assumed here.
 */
import { Cause, Context, Exit, Fiber, Layer, type Scope } from "effect"

type OnCrash = (exit: Exit.Exit<unknown, unknown>) => void
type Finalizer = (exit: Exit.Exit<unknown, unknown>) => ReturnType<Scope.State.Open["finalizer"] & {}>

/** Whether an exit is abnormal: anything but success, plain interruption, and the end of a stream or queue. */
export const isCrash = (exit: Exit.Exit<unknown, unknown>): boolean =>
  Exit.isFailure(exit) && (exit.cause.reasons.length === 0 || !exit.cause.reasons.every(isOrderly))

// The inner fibers of a stream that is pulled fail with `Done` when it ends.
const isOrderly = (reason: Cause.Reason<unknown>): boolean =>
  Cause.isInterruptReason(reason) || (Cause.isFailReason(reason) && Cause.isDone(reason.error))

const keeper = {}
const keep = () => Exit.void

// What is known of a scope or a map is written on it: weak collections would make every collection of garbage slow.
const Watched: unique symbol = Symbol.for("@coppice/supervision/Watched")
const Builder: unique symbol = Symbol.for("@coppice/supervision/Builder")

interface Marks {
  [Watched]?: true
  /** The map that builds layers in a scope. */
  [Builder]?: Layer.MemoMap
}

type Marked = (Scope.Scope | Layer.MemoMap) & Marks

const isWatched = (marked: Marked): boolean => marked[Watched] === true
const builderOf = (marked: Marked): Layer.MemoMap | undefined => marked[Builder]
const mark = (marked: Marked, marks: Marks): void => {
  Object.assign(marked, marks)
}

// A scope keeps its finalizers in a Map, keyed by what they close: a fiber, a forked scope, or a fresh object.
class Watching extends Map<{}, Finalizer> {
  readonly onCrash: OnCrash
  readonly onFork: (fork: Scope.Scope) => void

  constructor(onCrash: OnCrash, onFork: (fork: Scope.Scope) => void) {
    super()
    this.onCrash = onCrash
    this.onFork = onFork
  }

  override set(key: {}, finalizer: Finalizer): this {
    if (Fiber.isFiber(key)) {
      key.addObserver((exit) => {
        if (isCrash(exit)) this.onCrash(exit)
      })
    } else if (isScope(key)) {
      this.onFork(key)
    }
    return super.set(key, finalizer)
  }
}

const isScope = (key: {}): key is Scope.Scope => "state" in key && "strategy" in key

// No layer that anybody builds: what a map answers for it tells whose map it is.
const probe = Layer.empty.pipe(Layer.fresh)

/** The watch over one life of a child. */
class Watch {
  readonly onCrash: OnCrash
  readonly root: Scope.Scope
  private readonly mark = Exit.succeed(Context.empty())

  constructor(onCrash: OnCrash, root: Scope.Scope) {
    this.onCrash = onCrash
    this.root = root
  }

  start(parent: Layer.MemoMap, ofLayer: boolean): Layer.MemoMap {
    const map = Layer.forkMemoMapUnsafe(parent)
    const get = map.get.bind(map)
    Object.assign(map, {
      get: (layer: Layer.Layer<unknown>, scope: Scope.Scope) => (layer === probe ? this.mark : get(layer, scope))
    })
    this.watchMap(map)
    this.watchScope(this.root, map, ofLayer)
    mark(this.root, { [Builder]: map })
    return map
  }

  /**
   * Reports the crash of every fiber that is or will be registered in a scope whose owner sees `map`; with `forksToo`,
   * of its forks as well.
   */
  private watchScope(scope: Scope.Scope, map: Layer.MemoMap, forksToo: boolean): void {
    const state = scope.state
    if (state._tag === "Closed" || isWatched(scope)) return
    mark(scope, { [Watched]: true })
    const finalizers = new Watching(this.onCrash, (fork) =>
      forksToo ? this.watchScope(fork, map, false) : this.forked(fork, map)
    )
    // A scope replaces the state of an emptied Map, so the Map must never be empty.
    finalizers.set(keeper, keep)
    if (state._tag === "Open") {
      if (state.finalizer !== undefined) finalizers.set(state.finalizerKey ?? {}, state.finalizer)
      state.finalizers?.forEach((finalizer, key) => finalizers.set(key, finalizer))
    }
    scope.state = { _tag: "Open", finalizerKey: undefined, finalizer: undefined, finalizers }
  }

  // While a layer is built by hand its map is the current one: a fork of the one that the scope's owner sees.
  private forked(fork: Scope.Scope, map: Layer.MemoMap): void {
    const fiber = Fiber.getCurrent()
    const current = fiber && Context.getOrUndefined(fiber.context, Layer.CurrentMemoMap)
    if (current === undefined || current === map || current.get(probe, this.root) !== this.mark) return
    this.watchMap(current)
    mark(fork, { [Builder]: current })
  }

  private watchMap(map: Layer.MemoMap): void {
    if (isWatched(map)) return
    mark(map, { [Watched]: true })
    const memoize = map.getOrElseMemoize.bind(map)
    const watching: Layer.MemoMap["getOrElseMemoize"] = (layer, scope, build) =>
      this.enter(scope, map)
        ? memoize(layer, scope, (memoMap, own) => {
            this.watchScope(own, map, false)
            mark(own, { [Builder]: map })
            return build(memoMap, own)
          })
        : memoize(layer, scope, build)
    Object.assign(map, { getOrElseMemoize: watching })
  }

  // Scopes between the one a layer is built in and one that the same map built in were forked by layer combinators.
  private enter(scope: Scope.Scope, map: Layer.MemoMap): boolean {
    const between: Array<Scope.Scope> = []
    for (let at: Scope.Scope | undefined = scope; at !== undefined; at = at.parent) {
      between.push(at)
      if (builderOf(at) !== map) continue
      for (const s of between) this.watchScope(s, map, false)
      return true
    }
    return false
  }
}

/**
 * Makes `root` report crashes, and returns the map to build the layer with. `parent` is what the layer shares with the
 * world outside. Whoever forks a root that only a layer's building sees is a layer combinator (`ofLayer`).
 */
export const watch = (parent: Layer.MemoMap, root: Scope.Scope, onCrash: OnCrash, ofLayer: boolean): Layer.MemoMap =>
  new Watch(onCrash, root).start(parent, ofLayer)
