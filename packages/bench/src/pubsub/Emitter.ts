/** The least that a broadcast can cost: Node's EventEmitter calls its listeners, and whoever emits waits for them all. */
import { Effect } from "effect"
import { EventEmitter } from "node:events"
import type { Bus } from "./Bus.ts"

export const emitter: Bus = {
  name: "EventEmitter",
  topics: (count) =>
    Effect.sync(() =>
      Array.from({ length: count }, () => {
        const emitter = new EventEmitter().setMaxListeners(0)
        const listen = (listener: (event: number) => void) =>
          Effect.acquireRelease(
            Effect.sync(() => emitter.on("event", listener)),
            () => Effect.sync(() => emitter.off("event", listener))
          )
        return {
          broadcast: (first, end) =>
            Effect.sync(() => {
              for (let event = first; event < end; event++) emitter.emit("event", event)
            }),
          subscribe: Effect.suspend(() => listen(() => {})),
          consume: listen
        }
      })
    )
}
