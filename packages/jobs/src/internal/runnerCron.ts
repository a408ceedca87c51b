/**
 * The crontab of a runner: fired when the runner is asked to, and not by a loop.
 */
import { Duration, Effect, type Latch } from "effect"
import type * as Crontab from "../Crontab.ts"
import type { Client } from "./client.ts"
import * as CronEntry from "./cronEntry.ts"
import { makeRound } from "./cronLoop.ts"
import * as Nodes from "./nodes.ts"

/** Tells the database of the entries, and answers what fires them; that answers when it is to be done again. */
export const make = Effect.fnUntraced(function* (
  client: Client,
  cron: ReadonlyArray<Crontab.Entry>,
  changed: Latch.Latch
) {
  const entries = yield* CronEntry.prepareAll(cron)
  const round = makeRound({ client, entries, node: undefined, lease: Nodes.lease(Duration.seconds(30)), changed })
  // An entry fires from when it is known.
  yield* round
  return round
})
