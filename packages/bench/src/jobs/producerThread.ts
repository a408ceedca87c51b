/** The thread of a `Producer`. */
import { Effect, Fiber } from "effect"
import { parentPort, workerData } from "node:worker_threads"
import { implementations } from "./Implementations.ts"
import { now, type Plan, type Start } from "./Producer.ts"

const port = parentPort
if (port === null) throw new Error("this is the thread of a producer, and no program")

// What `Producer.make` passes.
const { implementation: name, place } = workerData as Start

const say = (times: ReadonlyArray<number>) => {
  port.postMessage(times)
}

const produce = Effect.gen(function* () {
  const implementation = implementations.find((candidate) => candidate.name === name)
  if (implementation === undefined) return yield* Effect.die(new Error(`nobody is called ${name}`))
  const queue = yield* implementation.open(place)
  say([])
  while (true) {
    const plan = yield* Effect.callback<Plan>((resume) => {
      port.once("message", (plan: Plan) => resume(Effect.succeed(plan)))
    })
    const begin = now()
    const times: Array<number> = []
    const enqueued: Array<Fiber.Fiber<unknown>> = []
    for (const at of plan.at) {
      while (now() - begin < at) yield* Effect.sleep("1 millis")
      const job = plan.from + times.length
      times.push(now())
      enqueued.push(yield* Effect.forkChild(queue.enqueue(job), { startImmediately: true }))
    }
    yield* Fiber.joinAll(enqueued)
    say(times)
  }
})

await Effect.runPromise(Effect.scoped(produce))
