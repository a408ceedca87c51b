/** A counter and its supervisor in JavaScript alone: a mailbox emptied in a microtask, a promise per call. Nobody can be faster. */
import { Effect } from "effect"
import { type Counter, crashed, type Implementation } from "./Implementation.ts"

type Message =
  | { readonly type: "increment"; readonly by: number; readonly reply: (count: number) => void }
  | { readonly type: "reset" }
  | { readonly type: "crash" }

class Server {
  onCrash: (error: unknown) => void = () => {}
  #count = 0
  #mailbox: Array<Message> = []
  #draining = false

  increment(by: number): Promise<number> {
    return new Promise((reply) => this.#post({ type: "increment", by, reply }))
  }

  reset(): void {
    this.#post({ type: "reset" })
  }

  crash(): void {
    this.#post({ type: "crash" })
  }

  start(): void {
    this.#count = 0
  }

  async stop(): Promise<void> {
    this.#mailbox = []
  }

  #post(message: Message): void {
    this.#mailbox.push(message)
    if (this.#draining) return
    this.#draining = true
    queueMicrotask(() => this.#drain())
  }

  #drain(): void {
    // Messages that come while others are handled are seen by the same loop.
    for (const message of this.#mailbox) {
      try {
        this.#handle(message)
      } catch (error) {
        this.onCrash(error)
      }
    }
    this.#mailbox.length = 0
    this.#draining = false
  }

  #handle(message: Message): void {
    switch (message.type) {
      case "increment":
        return message.reply((this.#count += message.by))
      case "reset":
        this.#count = 0
        return
      case "crash":
        throw crashed
    }
  }
}

class Supervisor {
  onRestart: () => void = () => {}
  #children: Array<Server> = []

  start(server: Server): void {
    this.#children.push(server)
    server.onCrash = () => {
      server.start()
      this.onRestart()
    }
    server.start()
  }

  async stop(): Promise<void> {
    for (const child of this.#children.toReversed()) await child.stop()
  }
}

const makeSupervisor = Effect.acquireRelease(
  Effect.sync(() => new Supervisor()),
  (supervisor) => Effect.promise(() => supervisor.stop())
)

export const plainJavaScript: Implementation = {
  name: "plain JavaScript",
  operations: 1_000_000,
  counter: Effect.map(makeSupervisor, (supervisor): Counter => {
    const server = new Server()
    supervisor.start(server)
    return {
      calls: (count) =>
        Effect.promise(async () => {
          for (let i = 0; i < count; i++) await server.increment(1)
        }),
      casts: (count) =>
        Effect.promise(async () => {
          for (let i = 0; i < count; i++) server.reset()
          await server.increment(0)
        }),
      crashes: (count, restarted) =>
        Effect.promise(async () => {
          for (let i = 0; i < count; i++) {
            await new Promise<void>((resolve) => {
              supervisor.onRestart = resolve
              server.crash()
            })
            restarted()
          }
        })
    }
  }),
  counters: (count) =>
    Effect.map(makeSupervisor, (supervisor) => {
      for (let i = 0; i < count; i++) supervisor.start(new Server())
    })
}
