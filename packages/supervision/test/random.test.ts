// Random trees under random crashes, on virtual time: what must hold for every tree, whatever happens to it.
import { Child, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe } from "@effect/vitest"
import { Cause, Context, Effect, Exit, type Fiber, Layer, type Scope } from "effect"
import { Actor, Journal } from "./fixtures/Actor.ts"
import { outcome, pass, record, scenario, settle, start } from "./fixtures/Scenario.ts"

interface Random {
  /** An integer from 0 to below `n`. */
  readonly below: (n: number) => number
  readonly pick: <A>(from: ReadonlyArray<A>) => A
}

/** The same numbers on every run (mulberry32). */
const seeded = (seed: number): Random => {
  let state = seed
  const below = (n: number) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4_294_967_296) * n)
  }
  return { below, pick: (from) => from[below(from.length)]! }
}

interface Service {
  readonly get: Effect.Effect<number>
  readonly hang: Effect.Effect<never>
  readonly slow: Effect.Effect<number>
}

interface Worker {
  readonly path: string
  readonly actor: Actor<string>
  readonly key: Context.Service<Service, Service>
  readonly restart: Child.Restart
  /** Its siblings in a group, in start order, itself among them. */
  readonly group: ReadonlyArray<Worker>
  /** When its present instance was started, among all starts. */
  startedAs: number
}

interface World {
  readonly layer: Layer.Layer<unknown, unknown>
  /** In start order. */
  readonly workers: ReadonlyArray<Worker>
  readonly paths: ReadonlyArray<string>
  readonly violations: Array<string>
}

interface Limits {
  readonly maxRestarts: (random: Random) => number
  readonly shutdown: Child.Shutdown
}

const makeWorld = (random: Random, limits: Limits): World => {
  const workers: Array<Worker> = []
  const paths: Array<string> = []
  const violations: Array<string> = []
  let starts = 0

  const worker = (id: string, path: string, group: Array<Worker>) => {
    const actor = new Actor(id, new Journal())
    const key = Context.Service<Service, Service>(`test/random/${path}`)
    const restart = random.pick(["permanent", "permanent", "permanent", "transient", "temporary"] as const)
    const it: Worker = { path, actor, key, restart, group, startedAs: 0 }
    workers.push(it)
    group.push(it)
    actor.startTakes = random.below(3)
    actor.stopTakes = random.below(3)
    actor.whileStarting = Effect.sync(() => {
      it.startedAs = ++starts
      if (actor.alive > 1) violations.push(`${path} has ${actor.alive} instances at once`)
    })
    actor.whileStopping = Effect.sync(() => {
      // A temporary child that crashes leaves alone, whatever the strategy.
      if (restart === "temporary") return
      const later = group.slice(group.indexOf(it) + 1).find((other) => other.actor.alive > 0)
      if (later !== undefined) violations.push(`${path} was stopped before ${later.path}`)
    })
    const service = Layer.effect(
      key,
      Effect.sync(() => {
        const n = actor.starts
        return { get: Effect.sync(() => n), hang: Effect.never, slow: Effect.delay(Effect.succeed(n), 2) }
      })
    )
    return Child.layer(id, Layer.provideMerge(service, actor.layer), { restart, shutdown: limits.shutdown })
  }

  const supervisor = (name: string, path: string, depth: number): Layer.Layer<unknown, unknown> => {
    if (depth > 1) paths.push(path)
    const strategy = random.pick(["one_for_one", "one_for_all", "rest_for_one"] as const)
    const group: Array<Worker> = []
    const children = Array.from({ length: 1 + random.below(4) }, (_, n) => {
      const childPath = `${path}/c${n}`
      if (depth < 3 && random.below(3) === 0) return Child.layer(`c${n}`, supervisor(`S${n}`, childPath, depth + 1))
      paths.push(childPath)
      return worker(`c${n}`, childPath, strategy === "one_for_one" ? [] : group)
    })
    return Supervisor.layer(name, { strategy, maxRestarts: limits.maxRestarts(random), within: "1 second", children })
  }

  const layer = supervisor("App", "App", 1)
  return { layer, workers, paths, violations }
}

const forkCall = (service: Service, random: Random) =>
  Effect.forkScoped(
    random.pick([
      service.get,
      service.slow,
      Effect.uninterruptible(service.slow),
      Effect.timeoutOption(service.hang, random.below(20))
    ] as ReadonlyArray<Effect.Effect<unknown>>),
    { startImmediately: true }
  )

/** Crashes and kills at random, with callers all the while. */
const shake = (
  world: World,
  context: Context.Context<unknown>,
  random: Random,
  actions: number
): Effect.Effect<ReadonlyArray<Fiber.Fiber<unknown>>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const calls: Array<Fiber.Fiber<unknown>> = []
    for (let n = 0; n < actions; n++) {
      const { actor, key } = random.pick(world.workers)
      const service = Context.getOrUndefined(context, key)
      if (service !== undefined) calls.push(yield* forkCall(service, random), yield* forkCall(service, random))
      const action = random.below(10)
      if (action < 6 && actor.alive > 0) yield* actor.crash()
      else if (action === 6) yield* Effect.ignore(Tree.kill(random.pick(world.paths)))
      else if (action === 7) actor.failingStarts = 1 + random.below(2)
      if (random.below(2) === 0) yield* pass(random.below(6))
    }
    yield* pass("1 minute")
    return calls
  })

const seeds = Array.from({ length: 12 }, (_, n) => n + 1)

describe("whatever happens to a tree that may restart as often as it must", () => {
  for (const seed of seeds) {
    scenario(`no instance doubles, no group is stopped or started out of order, no caller hangs (seed ${seed})`, () =>
      Effect.gen(function* () {
        const random = seeded(seed)
        const world = makeWorld(random, { maxRestarts: () => 1_000_000, shutdown: "5 seconds" })
        const events = yield* record
        const starting = yield* Effect.forkScoped(start(world.layer))
        yield* pass("1 second")
        const app = yield* starting.pollUnsafe() ?? Effect.die("it does not start")
        const calls = yield* shake(world, app.context, random, 40)

        assert.deepStrictEqual(world.violations, [])
        assert.deepStrictEqual(
          calls.filter((call) => outcome(call) === "running"),
          []
        )
        const nodes = (yield* Tree.snapshot).flatMap(flatten)
        const statuses = nodes.map((node) => `${node.path} ${node.status}`).filter((line) => !line.endsWith(" running"))
        assert.deepStrictEqual(statuses, [], "everything is up again")
        for (const worker of world.workers) {
          const { actor, group, path, restart } = worker
          const there = nodes.find((node) => node.path === path)
          if (restart !== "temporary") assert.isDefined(there, path)
          assert.strictEqual(actor.alive, there === undefined ? 0 : 1, path)
          assert.isAtMost(actor.mostAlive, 1, path)
          const up = events.filter(({ _tag, path: at }) => at === path && (_tag === "Started" || _tag === "Restarted"))
          assert.strictEqual(
            actor.journal
              .take()
              .split(" ")
              .filter((entry) => entry.startsWith("+")).length,
            up.length,
            `${path}: every start is told once`
          )
          if (group.length === 0 && there !== undefined) {
            assert.strictEqual(
              there.incarnation,
              there.restarts + 1,
              `${path}: one start for each restart, and the first`
            )
          }
          const former = group[group.indexOf(worker) - 1]
          if (former !== undefined && former.actor.alive === 1 && actor.alive === 1) {
            assert.isAbove(worker.startedAs, former.startedAs, `${path} was started before ${former.path}`)
          }
        }

        const stopped: Array<string> = []
        for (const { actor, path } of world.workers) actor.whileStopping = Effect.sync(() => stopped.push(path))
        const running = world.workers.filter(({ actor }) => actor.alive === 1).map(({ path }) => path)
        yield* Effect.forkScoped(app.stop)
        yield* pass("1 minute")
        assert.deepStrictEqual(stopped, running.toReversed(), "stopped in reverse")
        assert.deepStrictEqual(yield* Tree.snapshot, [])
      })
    )
  }
})

describe("whatever happens to a tree that gives up soon", () => {
  for (const seed of seeds) {
    scenario(`nothing is left of it, no instance doubles, and its callers know (seed ${seed})`, () =>
      Effect.gen(function* () {
        const random = seeded(1000 + seed)
        const world = makeWorld(random, { maxRestarts: (random) => random.below(3), shutdown: "5 seconds" })
        const starting = yield* Effect.forkScoped(start(world.layer))
        yield* pass("1 second")
        const app = yield* starting.pollUnsafe() ?? Effect.die("it does not start")
        const calls = yield* shake(world, app.context, random, 60)
        // It may have given up by itself.
        yield* Effect.ignore(Tree.kill("App"))
        yield* pass("1 minute")

        assert.deepStrictEqual(world.violations, [])
        assert.deepStrictEqual(
          calls.filter((call) => outcome(call) === "running"),
          []
        )
        for (const { actor, key, path } of world.workers) {
          assert.strictEqual(actor.alive, 0, `${path} is still there`)
          assert.isAtMost(actor.mostAlive, 1, path)
          const service = Context.getOrUndefined(app.context, key)
          const exit = service === undefined ? undefined : yield* Effect.exit(service.get)
          const error = exit !== undefined && Exit.isFailure(exit) ? Cause.squash(exit.cause) : exit
          assert.instanceOf(error, Child.ChildUnavailable, path)
        }
      })
    )
  }
})

describe("whatever happens to a tree whose children will not stop in time", () => {
  for (const seed of seeds.slice(0, 6)) {
    scenario(`what is left behind is counted, and the tree comes up again (seed ${seed})`, () =>
      Effect.gen(function* () {
        const random = seeded(2000 + seed)
        const world = makeWorld(random, { maxRestarts: () => 1_000_000, shutdown: 1 })
        const starting = yield* Effect.forkScoped(start(world.layer))
        yield* pass("1 second")
        const app = yield* starting.pollUnsafe() ?? Effect.die("it does not start")
        for (const { actor } of world.workers) actor.stopTakes = random.below(20)
        const calls = yield* shake(world, app.context, random, 40)
        assert.deepStrictEqual(
          calls.filter((call) => outcome(call) === "running"),
          []
        )
        const nodes = (yield* Tree.snapshot).flatMap(flatten)
        for (const { leaked, path, status } of nodes) {
          assert.strictEqual(status, "running", path)
          assert.strictEqual(leaked, 0, `${path}: everything has ended by now`)
        }
        for (const { actor, path } of world.workers) {
          assert.strictEqual(actor.alive, nodes.some((node) => node.path === path) ? 1 : 0, path)
        }
        yield* settle
      })
    )
  }
})

const flatten = (node: Tree.Snapshot): ReadonlyArray<Tree.Snapshot> => [node, ...node.children.flatMap(flatten)]
