import { Child, GenServer, Supervisor, Tree } from "@coppice/supervision"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Layer, Logger, Metric, References, Tracer } from "effect"

class Counter extends GenServer.Service<Counter>()("test/Counter", {
  init: () => Effect.succeed(0),
  calls: {
    add: (state) => Effect.succeed(GenServer.reply(state + 1, state + 1)),
    crash: () => Effect.die(new Error("boom"))
  }
}) {}

const app = (name: string, maxRestarts = 3) =>
  Supervisor.layer(name, { strategy: "one_for_one", maxRestarts, children: [Child.layer("counter", Counter.layer())] })

interface Line {
  readonly level: string
  readonly message: string
  readonly cause: string | undefined
  readonly annotations: Readonly<Record<string, unknown>>
}

const collectLogs = () => {
  const lines: Array<Line> = []
  const logger = Logger.make<unknown, void>(({ cause, fiber, logLevel, message }) => {
    const parts = Array.isArray(message) ? message : [message]
    const given = parts.find(Cause.isCause) ?? cause
    lines.push({
      level: logLevel,
      message: String(parts[0]),
      cause: given.reasons.length === 0 ? undefined : String(Cause.squash(given)),
      annotations: { ...fiber.getRef(References.CurrentLogAnnotations) }
    })
  })
  return { lines, layer: Logger.layer([logger]) }
}

const collectSpans = () => {
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, layer: Layer.succeed(Tracer.Tracer, tracer) }
}

describe("observability", () => {
  it.effect("logs one structured line per start, crash with its cause, restart and give-up", () => {
    const { layer, lines } = collectLogs()
    return Effect.gen(function* () {
      yield* Effect.gen(function* () {
        yield* Effect.exit(Counter.crash())
        yield* Counter.add()
        yield* Effect.exit(Counter.crash())
        yield* Effect.exit(Counter.add())
      }).pipe(Effect.provide(app("Logged", 1)))
      assert.deepStrictEqual(
        lines.map(({ cause, level, message }) => ({ level, message, cause })),
        [
          { level: "Info", message: "child started", cause: undefined },
          { level: "Error", message: "child crashed", cause: "Error: boom" },
          { level: "Info", message: "child restarted", cause: undefined },
          { level: "Error", message: "child crashed", cause: "Error: boom" },
          { level: "Error", message: "supervisor gave up", cause: "Error: boom" }
        ]
      )
      assert.deepStrictEqual(lines[2]?.annotations, { path: "Logged/counter", incarnation: 2, restarts: 1 })
      assert.deepInclude(lines[4]?.annotations, { path: "Logged", child: "Logged/counter", maxRestarts: 1 })
    }).pipe(Effect.provide(layer))
  })

  it.effect("counts crashes, restarts and give-ups by path", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        yield* Effect.exit(Counter.crash())
        yield* Counter.add()
        yield* Effect.exit(Counter.crash())
        yield* Effect.exit(Counter.add())
      }).pipe(Effect.provide(app("Metered", 1)))
      const value = (id: string, path: string) =>
        Effect.map(Metric.snapshot, (metrics) => {
          const metric = metrics.find((metric) => metric.id === id && metric.attributes?.["path"] === path)
          return metric?.type === "Counter" ? Number(metric.state.count) : undefined
        })
      assert.strictEqual(yield* value("coppice_supervisor_crashes_total", "Metered/counter"), 2)
      assert.strictEqual(yield* value("coppice_supervisor_restarts_total", "Metered/counter"), 1)
      assert.strictEqual(yield* value("coppice_supervisor_gave_up_total", "Metered"), 1)
    })
  )

  it.effect("names its spans Supervisor.* and GenServer.*, and continues the caller's trace in the handler", () => {
    const { layer, spans } = collectSpans()
    return Effect.gen(function* () {
      yield* Effect.gen(function* () {
        yield* Counter.add().pipe(Effect.withSpan("request"))
        yield* Counter.add()
        yield* Tree.kill("Traced/counter")
        yield* Counter.add()
      }).pipe(Effect.provide(app("Traced")))
      assert.deepStrictEqual(
        spans.map((span) => span.name),
        ["Supervisor.start", "request", "GenServer.test/Counter.add", "Supervisor.restart"]
      )
      const [, request, handler, restart] = spans
      const parent = handler?.parent._tag === "Some" ? handler.parent.value : undefined
      assert.strictEqual(parent?.spanId, request?.spanId)
      assert.strictEqual(restart?.attributes.get("child"), "Traced/counter")
    }).pipe(Effect.provide(layer))
  })
})
