/** `npm run bench -- <suite>`: measures a suite and prints its table. */
import { Effect } from "effect"
import { execute } from "./Cli.ts"
import { jobs } from "./suites/jobs.ts"
import { pubsub } from "./suites/pubsub.ts"
import { supervision } from "./suites/supervision.ts"

process.exitCode = await Effect.runPromise(
  execute(import.meta.filename, process.argv.slice(2), [supervision, jobs, pubsub])
)
