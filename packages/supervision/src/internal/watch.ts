/**
 * Sees the fibers that a layer forks into its own scope, without the layer's help.
 *
 * A layer is built against a `MemoMap`, and every memoised layer gets its scope from that map. `watch` builds a layer
 * against a map that hands out the same scopes, made to report the fibers registered in them. Only scopes that belong to
 * the building of layers are watched: the child's root, the forks that layer combinators make below it, and the scope of
 * each memoised layer. A scope that the layer's own code makes or forks is its private business, and a fiber that fails
 * there is not a crash.
 *
 * Stands on the public interfaces `Layer.MemoMap` and `Scope.State`; `watch.assumptions.test.ts` fails when a new Effect version
 * changes what is assumed here.
 */
import { Cause, Exit, Fiber, Layer, type Scope } from "effect"

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

const watched = new WeakSet<Scope.Scope>()

// A scope keeps its finalizers in a Map, keyed by what they close: a fiber, a forked scope, or a fresh object.
class Watching extends Map<{}, Finalizer> {
  readonly onCrash: OnCrash
  readonly forksToo: boolean

  constructor(onCrash: OnCrash, forksToo: boolean) {
    super()
    this.onCrash = onCrash
    this.forksToo = forksToo
  }

  override set(key: {}, finalizer: Finalizer): this {
    if (Fiber.isFiber(key)) {
      key.addObserver((exit) => {
        if (isCrash(exit)) this.onCrash(exit)
      })
    } else if (this.forksToo && isScope(key)) {
      watchScope(key, this.onCrash, false)
    }
    return super.set(key, finalizer)
  }
}

const isScope = (key: {}): key is Scope.Scope => "state" in key && "strategy" in key

/** Reports the crash of every fiber that is or will be registered in `scope`; with `forksToo`, of its forks as well. */
const watchScope = (scope: Scope.Scope, onCrash: OnCrash, forksToo: boolean): void => {
  const state = scope.state
  if (state._tag === "Closed" || watched.has(scope)) return
  watched.add(scope)
  const finalizers = new Watching(onCrash, forksToo)
  // A scope replaces the state of an emptied Map, so the Map must never be empty.
  finalizers.set(keeper, keep)
  if (state._tag === "Open") {
    if (state.finalizer !== undefined) finalizers.set(state.finalizerKey ?? {}, state.finalizer)
    state.finalizers?.forEach((finalizer, key) => finalizers.set(key, finalizer))
  }
  scope.state = { _tag: "Open", finalizerKey: undefined, finalizer: undefined, finalizers }
}

/**
 * Makes `root` report crashes, and returns the map to build the layer with. `parent` is what the layer shares with the
 * world outside. Whoever forks a root that only a layer's building sees is a layer combinator (`ofLayer`).
 */
export const watch = (parent: Layer.MemoMap, root: Scope.Scope, onCrash: OnCrash, ofLayer: boolean): Layer.MemoMap => {
  watchScope(root, onCrash, ofLayer)
  const inner = Layer.forkMemoMapUnsafe(parent)
  // Scopes between the one a layer is built in and the root were forked by layer combinators.
  const watchAncestors = (scope: Scope.Scope): void => {
    for (let s: Scope.Scope | undefined = scope; s !== undefined && !watched.has(s); s = s.parent) {
      watchScope(s, onCrash, false)
    }
  }
  const outer: Layer.MemoMap = Object.assign(Object.create(inner), {
    getOrElseMemoize: <ROut, E, RIn>(
      layer: Layer.Layer<ROut, E, RIn>,
      scope: Scope.Scope,
      build: Parameters<typeof inner.getOrElseMemoize<RIn, E, ROut>>[2]
    ) => {
      watchAncestors(scope)
      return inner.getOrElseMemoize(layer, scope, (_memoMap, own) => {
        watchScope(own, onCrash, false)
        return build(outer, own)
      })
    }
  })
  return outer
}
