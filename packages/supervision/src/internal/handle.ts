/**
 * Stable handles: what a supervisor provides for a child's service.
 *
 * A handle looks like the service and reaches the child's running instance at the time of each call. It is made of late
 * bound members: an effect, a stream or a method of the handle finds its counterpart on the instance when it is run.
 * Anything else (data, getters, methods that answer without an effect) is read from the latest instance.
 */
import { Cause, Context, Effect, Effectable, Exit, type Fiber, Redacted, Stream } from "effect"
import { ChildUnavailable } from "../Child.ts"
import { callOn, type Cell, type Gone, handles, type Instance, refusal, unavailable, watchInstance } from "./cell.ts"

/** The instance that an enclosing call of the same child has reached, for as long as that call runs. */
interface Pin {
  readonly cell: Cell
  readonly instance: Instance
  readonly outer: Pin | undefined
  active: boolean
}

const Pins = Context.Reference<Pin | undefined>("@coppice/supervision/Pins", { defaultValue: () => undefined })

/** A service with this member makes its handle itself. */
export const MakeHandle: unique symbol = Symbol.for("@coppice/supervision/MakeHandle")

/** A service that knows better than a proxy how to reach its running instance. */
interface MakesHandle {
  readonly [MakeHandle]: (cell: Cell, key: string) => object
}

const makesHandle = (service: object): service is MakesHandle => MakeHandle in service

/** Finds a value on an instance: the service, or a member of it. */
type Find = (instance: Instance) => unknown

/** A handle for the service `key` of the child behind `cell`. A service that is a primitive value stays that value. */
export const make = (cell: Cell, key: string, service: unknown): unknown => {
  const find: Find = (instance) => instance.services.get(key)
  if (isObject(service) && isItself(service)) return service
  if (!isObject(service) || Effect.isEffect(service) || Stream.isStream(service)) return late(cell, find, service)
  if (makesHandle(service)) return service[MakeHandle](cell, key)
  const handle = lateObject(cell, find, service)
  handles.add(handle)
  return handle
}

const isObject = (value: unknown): value is object =>
  (typeof value === "object" && value !== null) || typeof value === "function"

// A class is called with `new`, and a redacted value is found by its identity: neither can be stood in for.
const isItself = (value: object): boolean =>
  typeof value === "function"
    ? Reflect.getOwnPropertyDescriptor(value, "prototype")?.writable === false
    : Redacted.isRedacted(value)

/** The late bound counterpart of a member; the member itself where it is data. */
const late = (cell: Cell, find: Find, value: unknown): unknown => {
  if (Effect.isEffect(value)) return lateEffect(cell, find, value)
  if (Stream.isStream(value)) return lateStream(cell, find)
  return value
}

// --------------------------------------------------------------------------------------------------------------------
// effects
// --------------------------------------------------------------------------------------------------------------------

interface LateEffect extends Effect.Effect<unknown, unknown, unknown> {
  readonly cell: Cell
  readonly find: Find
}

const LateEffectProto = Effectable.Prototype<LateEffect>({
  label: "ChildCall",
  evaluate(fiber) {
    return call(fiber, this.cell, this.find)
  }
})

// The name under which the runtime asks an effect to run: taken from an effect made by Effect, not assumed.
const evaluateKey = Object.keys(LateEffectProto).find((key) => key.endsWith("/evaluate")) ?? "evaluate"

const lateEffect = (cell: Cell, find: Find, specimen: object): Effect.Effect<unknown, unknown, unknown> => {
  const effect = Object.assign(Object.create(LateEffectProto) as LateEffect, { cell, find })
  return isPlainEffect(specimen) ? effect : extendedEffect(cell, find, specimen)
}

const isPlainEffect = (effect: object): boolean => Object.keys(effect).every((key) => key.startsWith("~effect/"))

// An effect that is more than an effect, such as a SQL statement: its other members stay within reach.
const extendedEffect = (cell: Cell, find: Find, specimen: object): Effect.Effect<unknown, unknown, unknown> => {
  const run = (fiber: Fiber.Fiber<unknown, unknown>) => call(fiber, cell, find)
  // A proxy of an effect is an effect.
  return new Proxy(specimen, {
    get(target, key, receiver) {
      if (key === evaluateKey) return run
      if (typeof key === "symbol" || key === "pipe" || key.startsWith("~effect/")) {
        return Reflect.get(target, key, receiver)
      }
      const value: unknown = Reflect.get(target, key, target)
      const findMember: Find = (instance) => member(find(instance), key)
      return typeof value === "function" ? lateMethod(cell, findMember, find, value) : late(cell, findMember, value)
    }
  }) as Effect.Effect<unknown, unknown, unknown>
}

const member = (owner: unknown, key: PropertyKey): unknown =>
  isObject(owner) ? Reflect.get(owner, key, owner) : undefined

const call = (fiber: Fiber.Fiber<unknown, unknown>, cell: Cell, find: Find): Effect.Effect<unknown, unknown> => {
  const refused = refusal(fiber.context, cell.path)
  if (refused !== undefined) return refused
  const pins = Context.get(fiber.context, Pins)
  for (let pin = pins; pin !== undefined; pin = pin.outer) {
    // Inside a call on an instance everything stays on it, or fails with it.
    if (pin.active && pin.cell === cell) return pin.instance.gone ? unavailable(pin.instance.gone) : run(pin.instance)
  }
  if (cell.current !== undefined) return guarded(cell.current)
  return Effect.flatMap(cell.instance, guarded)

  function run(instance: Instance): Effect.Effect<unknown, unknown> {
    const effect = find(instance)
    return Effect.isEffect(effect)
      ? // The fiber that evaluates the handle has the services that the caller's type asked for.
        (effect as Effect.Effect<unknown, unknown>)
      : Effect.succeed(effect)
  }
  function guarded(instance: Instance): Effect.Effect<unknown, unknown> {
    const effect = run(instance)
    if (Exit.isExit(effect)) return effect
    const pin: Pin = { cell, instance, outer: innermost(pins), active: true }
    return callOn(cell, instance, Context.add(fiber.context, Pins, pin), effect, () => {
      pin.active = false
    })
  }
}

// Calls that have ended bind nobody: a fiber that outlives them must not carry them on.
const innermost = (pins: Pin | undefined): Pin | undefined => {
  let pin = pins
  while (pin !== undefined && !pin.active) pin = pin.outer
  return pin
}

// --------------------------------------------------------------------------------------------------------------------
// streams
// --------------------------------------------------------------------------------------------------------------------

const lateStream = (cell: Cell, find: Find): Stream.Stream<unknown, unknown, unknown> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const refused = refusal(yield* Effect.context<never>(), cell.path)
      if (refused !== undefined) return Stream.fromEffect(refused)
      let pin = yield* Pins
      while (pin !== undefined && !(pin.active && pin.cell === cell)) pin = pin.outer
      const instance = pin?.instance ?? (yield* cell.instance)
      if (instance.gone !== undefined) return Stream.fromEffect(unavailable(instance.gone))
      const stream = find(instance)
      if (!Stream.isStream(stream)) return Stream.empty
      return Stream.interruptWhen(stream, untilGone(instance))
    })
  )

const untilGone = (instance: Instance): Effect.Effect<never> =>
  Effect.callback((resume) => {
    const leave = (gone: Gone) => resume(unavailable(gone))
    if (instance.gone !== undefined) return leave(instance.gone)
    return Effect.sync(watchInstance(instance, leave))
  })

// --------------------------------------------------------------------------------------------------------------------
// methods and objects
// --------------------------------------------------------------------------------------------------------------------

/** What a function has answered with so far, if that can be late bound. */
interface Answers {
  kind: Effect.Effect<void> | Stream.Stream<never> | undefined
}

type AnyFunction = (this: unknown, ...args: ReadonlyArray<unknown>) => unknown

const latest = (cell: Cell): Instance => {
  const instance = cell.current ?? cell.latest
  if (instance === undefined) {
    throw new ChildUnavailable({ path: cell.path, reason: "restarting", cause: Cause.empty })
  }
  return instance
}

/**
 * Calls a function of the latest instance. When it answers with an effect or a stream, the answer is late bound: run on
 * another instance, it is that instance's function that is called.
 */
const invoke = (cell: Cell, find: Find, findOwner: Find, answers: Answers, args: ReadonlyArray<unknown>): unknown => {
  // A method of the handle is a method of every instance.
  const apply = (instance: Instance): unknown => Reflect.apply(find(instance) as AnyFunction, findOwner(instance), args)
  const asked = latest(cell)
  let answer: unknown
  try {
    answer = apply(asked)
  } catch (defect) {
    // What a dead instance throws says nothing about the next one, which is asked when the answer can wait.
    if (cell.current === undefined && answers.kind !== undefined) return late(cell, apply, answers.kind)
    throw defect
  }
  if (Effect.isEffect(answer)) answers.kind = Effect.void
  else if (Stream.isStream(answer)) answers.kind = Stream.empty
  let known = { instance: asked, answer }
  const findAnswer: Find = (instance) => {
    if (instance !== known.instance) known = { instance, answer: apply(instance) }
    return known.answer
  }
  return typeof answer === "function" && !isItself(answer)
    ? lateObject(cell, findAnswer, answer)
    : late(cell, findAnswer, answer)
}

const lateMethod = (
  cell: Cell,
  find: Find,
  findOwner: Find,
  value: object,
  answers: Answers = { kind: undefined }
): unknown => {
  const method = (...args: ReadonlyArray<unknown>) => invoke(cell, find, findOwner, answers, args)
  return Object.keys(value).length === 0 ? method : lateObject(cell, find, value, method)
}

const noOwner: Find = () => undefined

// What has been looked at: service members keep their nature.
const serviceLike = new WeakMap<object, boolean>()

/** Whether an object in a service is a part of it, whose functions are to be late bound, and not data. */
const isServiceLike = (value: object): boolean => {
  const known = serviceLike.get(value)
  if (known !== undefined) return known
  // An object that holds itself is settled by its other members.
  serviceLike.set(value, false)
  const prototype: unknown = Object.getPrototypeOf(value)
  const found =
    !Array.isArray(value)
    && !isNative(value)
    && !isOfEffect(value)
    && ((isObject(prototype) && prototype !== Object.prototype)
      || Reflect.ownKeys(value).some((key) => acts(value, key)))
  serviceLike.set(value, found)
  return found
}

// Own or inherited: some structures carry the mark of their module themselves, others on their prototype.
const isOfEffect = (value: object): boolean => {
  for (const key in value) if (key.startsWith("~effect/")) return true
  return false
}

const acts = (owner: object, key: PropertyKey): boolean => {
  const descriptor = Reflect.getOwnPropertyDescriptor(owner, key)
  if (descriptor?.get !== undefined) return true
  const value: unknown = descriptor?.value
  return (
    typeof value === "function"
    || (isObject(value) && (Effect.isEffect(value) || Stream.isStream(value) || isServiceLike(value)))
  )
}

// Objects of the language and the platform hold what a proxy cannot stand in for.
const isNative = (value: object): boolean => {
  for (let at: unknown = Object.getPrototypeOf(value); isObject(at); at = Object.getPrototypeOf(at)) {
    const made: unknown = Object.hasOwn(at, "constructor") ? at.constructor : undefined
    if (typeof made !== "function" || made === Object) continue
    if (Reflect.get(globalThis, made.name) === made || Reflect.get(Intl, made.name) === made) return true
  }
  return false
}

const inspect = Symbol.for("nodejs.util.inspect.custom")

/** A member as it was read from an instance. */
interface Read {
  instance: Instance
  owner: object
  readonly value: unknown
}

/** A forwarding object: the service itself, or an object of functions inside it. */
const lateObject = (cell: Cell, find: Find, specimen: object, asFunction?: AnyFunction): object => {
  const members = new Map<PropertyKey, { readonly read: Read; readonly late: unknown }>()
  const answers: Answers = { kind: undefined }
  const answersOf = new Map<PropertyKey, Answers>()
  // The parts of a structure of Effect's, such as a Pool, know each other by identity.
  const isStructure = isOfEffect(specimen)
  const realOn = (instance: Instance): object => {
    const value = find(instance)
    return isObject(value) ? value : specimen
  }
  const real = (): object => realOn(latest(cell))
  const target =
    typeof specimen === "function"
      ? (asFunction ?? ((...args: ReadonlyArray<unknown>) => invoke(cell, find, noOwner, answers, args)))
      : Array.isArray(specimen)
        ? []
        : (Object.create(null) as object)
  const get = (key: PropertyKey): unknown => {
    const instance = latest(cell)
    const owner = realOn(instance)
    const value: unknown = Reflect.get(owner, key, owner)
    const known = members.get(key)
    if (known !== undefined && known.read.value === value) {
      // What instances share, such as the methods of a class, is read again on each of them.
      known.read.instance = instance
      known.read.owner = owner
      return known.late
    }
    const read: Read = { instance, owner, value }
    const made = bind(key, read)
    if (made !== value) members.set(key, { read, late: made })
    return made
  }
  // The console looks behind a proxy.
  Object.defineProperty(target, inspect, { value: real, configurable: true })
  const handle: object = new Proxy(target, {
    get: (_target, key) => get(key),
    set: (_target, key, value) => Reflect.set(real(), key, value),
    deleteProperty: (_target, key) => Reflect.deleteProperty(real(), key),
    defineProperty: (_target, key, descriptor) => Reflect.defineProperty(real(), key, descriptor),
    // Nothing that an instance could refuse for those that come after it.
    setPrototypeOf: () => false,
    preventExtensions: () => false,
    has: (_target, key) => Reflect.has(real(), key),
    ownKeys: () => Reflect.ownKeys(real()).filter((key) => !(typeof specimen === "function" && key === "prototype")),
    getPrototypeOf: () => Reflect.getPrototypeOf(real()),
    getOwnPropertyDescriptor(target, key) {
      const descriptor = Reflect.getOwnPropertyDescriptor(real(), key)
      // Only what the target itself fixes (an array its length) may be reported as fixed.
      const configurable = Reflect.getOwnPropertyDescriptor(target, key)?.configurable ?? true
      return descriptor === undefined
        ? undefined
        : { configurable, enumerable: descriptor.enumerable ?? false, writable: true, value: get(key) }
    },
    apply: (_target, _this, args) =>
      asFunction === undefined ? invoke(cell, find, noOwner, answers, args) : Reflect.apply(asFunction, undefined, args)
  })
  return handle

  function bind(key: PropertyKey, read: Read): unknown {
    const { owner, value } = read
    if (isObject(value) && isItself(value)) return value
    // Whoever has read a member has that very one, for as long as its instance is there.
    const findMember: Find = (instance) => (instance === read.instance ? read.value : member(find(instance), key))
    if (typeof value === "function") {
      if (key === "constructor") return value
      if (typeof key === "symbol") {
        return (...args: ReadonlyArray<unknown>): unknown => Reflect.apply(value, real(), args)
      }
      if (key === "pipe" && value.length === 0) {
        // Effect's own `pipe` names no parameters. What is made of a handle is to be made of the handle.
        return (...args: ReadonlyArray<unknown>): unknown => Reflect.apply(value, handle, args)
      }
      const findOwner: Find = (instance) => (instance === read.instance ? read.owner : find(instance))
      const known = answersOf.get(key) ?? { kind: undefined }
      answersOf.set(key, known)
      return lateMethod(cell, findMember, findOwner, value, known)
    }
    if (isObject(value) && typeof key === "string" && !Effect.isEffect(value) && !Stream.isStream(value)) {
      if (value === owner) return handle
      return !isStructure && isServiceLike(value) && !key.startsWith("~") ? lateObject(cell, findMember, value) : value
    }
    return late(cell, findMember, value)
  }
}
