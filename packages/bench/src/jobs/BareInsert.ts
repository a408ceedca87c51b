/** The least that enqueueing in bulk can cost: one insert of many rows into the table of the queue of this workspace. */
import { Effect } from "effect"
import { coppice } from "./Coppice.ts"
import { session } from "./Database.ts"
import type { BulkQueue, Implementation } from "./Implementation.ts"

export const bareInsert: Implementation<BulkQueue> = {
  name: "bare insert",
  configuration: "insert into jobs.jobs (queue, worker, args) select ... unnest($1), and nothing else",
  open: (place) =>
    Effect.gen(function* () {
      yield* coppice.open(place)
      const connection = yield* session(place.database)
      return {
        enqueueMany: (jobs) => Effect.orDie(connection.query(insert, [jobs.map((job) => JSON.stringify({ n: job }))]))
      }
    })
}

const insert = "insert into jobs.jobs (queue, worker, args) select 'default', 'Noop', unnest($1::text[])::jsonb"
