/** Starts the application: `npm start`, or `npm start -- --port 4001`. */
import { Application, type Supervisor } from "@coppice/supervision"
import { Cause, Effect, Layer, Result } from "effect"
import { fileURLToPath } from "node:url"
import * as App from "./App.ts"
import { PageFetcher } from "./PageFetcher.ts"
import * as Settings from "./Settings.ts"

// What whoever started the program can put right is one line; anything else is left to the application's own report.
const explain = ({ reason }: Supervisor.StartError) =>
  Effect.sync(() => {
    const error: unknown = Cause.squash(reason)
    if (
      error instanceof Error
      && "_tag" in error
      && (error._tag === "CannotListen" || error._tag === "PostgresUnavailable" || error._tag === "ListenUnavailable")
    ) {
      // What libraries call an environment variable is an option here.
      process.stderr.write(`trails: ${error.message.replace("DATABASE_DIR", "--data")}\n`)
      process.exit(1)
    }
  })

const settings = Effect.runSync(
  Effect.result(
    Settings.parse(process.argv.slice(2), process.env, fileURLToPath(new URL("../../../.data", import.meta.url)))
  )
)

if (Result.isFailure(settings)) {
  process.stderr.write(`trails: ${settings.failure.message}\n`)
  process.exitCode = 1
} else if (settings.success === "help") {
  process.stdout.write(Settings.usage)
} else {
  const { allowPrivateAddresses, worker } = settings.success
  const web = PageFetcher.layer(allowPrivateAddresses ? { allow: () => true } : {})
  const options = { shutdownTimeout: "10 seconds" } as const
  if (worker)
    Application.run(App.layerWorker(settings.success).pipe(Layer.tapError(explain), Layer.provide(web)), options)
  else Application.run(App.layer(settings.success).pipe(Layer.tapError(explain), Layer.provide(web)), options)
}
