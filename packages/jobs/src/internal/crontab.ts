/**
 * The crontab at run time: what `Jobs.cron` offers.
 *
 * Every operation is one statement or one transaction, joins the transaction that is open, and tells other nodes after the
 * commit. A node that misses it learns of a change within a minute, and never fires what the database does not have any
 * more.
 */
import { Effect } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { type Entry, EntryNotFound, type EntryRecord, InvalidEntry } from "../Crontab.ts"
import type { CronShape } from "../Jobs.ts"
import type { InvalidJob } from "../NewJob.ts"
import type { Client } from "./client.ts"
import {
  checkJob,
  checkTiming,
  decodeCatchUp,
  encodeCatchUp,
  type EntryRow,
  prepare,
  specColumns,
  specFrom,
  specParams,
  toRecord
} from "./cronEntry.ts"
import { type FiredRow, insertJobs, rowSpec, tell, timingColumns } from "./cronFiring.ts"
import { idOf, now, type Timestamp } from "./database.ts"
import { problemOf } from "./json.ts"

export const make = (client: Client): CronShape => {
  const { database } = client
  const { schema } = database
  const timed = database.timed
  const table = `${schema}.cron_entries`

  const insert = `
    insert into ${table}
      (name, source, expression, time_zone, catch_up, last_fire, seen_at, inserted_at, updated_at, ${specColumns.join(", ")})
    values ($2, 'dynamic', $3, $4, $5, ${now}, ${now}, ${now}, ${now}, ${specFrom(6).join(", ")})
    on conflict (name) do nothing
    returning name`
  const update = `
    update ${table} set expression = $3, time_zone = $4, catch_up = $5, updated_at = ${now},
           (${specColumns.join(", ")}) = row (${specFrom(6).join(", ")})
     where name = $2`
  // A static entry that no node was seen with for so long is history.
  const live = `(c.source = 'dynamic' or c.seen_at >= ${now} - interval '3 hours')`
  const columns = `${[...timingColumns, "fired_at", ...specColumns].map((column) => `c.${column}`).join(", ")}, ${live} as live`
  const lock = `select ${columns} from ${table} c where name = $2 for no key update`
  const all = `select ${now} as time, ${columns} from ${table} c order by name`
  const pause = `update ${table} set paused = true, updated_at = ${now} where name = $2 returning name`
  const resume = `
    update ${table} set paused = false, updated_at = ${now},
           last_fire = case when paused then greatest(last_fire, ${now}) else last_fire end
     where name = $2 returning name`
  const remove = `
    with c as materialized (
      select name, not (source = 'static' and ${live}) as removable from ${table} c where name = $2 for update
    ), d as (
      delete from ${table} e using c where e.name = c.name and c.removable
    )
    select removable from c`
  const runNow = `
    with t as materialized (select *, ${now} as tick from ${table} where name = $2) ${insertJobs(schema, rowSpec, "t")}`

  const changed = client.signal({ _tag: "Cron" })

  /** The row that a statement returns of an entry. */
  const one = <Row extends object>(statement: string, name: string): Effect.Effect<Row, EntryNotFound | SqlError> => {
    const absent = new EntryNotFound({ name, problem: "does not exist: it was deleted, or has another name" })
    // A name that PostgreSQL cannot have.
    if (problemOf(name) !== undefined) return absent
    return Effect.flatMap(timed<Row>(statement, [name]), ([row]) => (row === undefined ? absent : Effect.succeed(row)))
  }

  const create = Effect.fnUntraced(function* (entry: Entry) {
    const { catchUp, expression, name, spec, timeZone } = yield* Effect.fromResult(prepare(entry))
    const inserted = yield* timed(insert, [name, expression, timeZone, encodeCatchUp(catchUp), ...specParams(spec)])
    if (inserted.length === 0)
      return yield* new InvalidEntry({ name, problem: "exists already: change it, or use another name" })
    yield* changed
  })

  const change = Effect.fnUntraced(function* (name: string, changes: Partial<Omit<Entry, "name">>) {
    const row = yield* one<EntryRow>(lock, name)
    if (row.source === "static") return yield* new EntryNotFound({ name, problem: `${fixed}: change it there` })
    const timing = yield* Effect.fromResult(
      checkTiming(
        name,
        changes.expression ?? row.expression,
        changes.timeZone ?? row.time_zone,
        changes.catchUp ?? decodeCatchUp(row.catch_up)
      )
    )
    const spec = changes.job === undefined ? row : yield* Effect.fromResult(checkJob(changes.job))
    const { catchUp, expression, timeZone } = timing
    yield* timed(update, [name, expression, timeZone, encodeCatchUp(catchUp), ...specParams(spec)])
    yield* changed
  }, database.client.withTransaction)

  return {
    create,
    change: (name, changes): Effect.Effect<void, EntryNotFound | InvalidEntry | InvalidJob | SqlError> =>
      change(name, changes),
    pause: (name) => Effect.andThen(one(pause, name), changed),
    resume: (name) => Effect.andThen(one(resume, name), changed),
    delete: Effect.fnUntraced(function* (name: string) {
      const { removable } = yield* one<{ readonly removable: boolean }>(remove, name)
      if (!removable) return yield* new EntryNotFound({ name, problem: `${fixed}: remove it there` })
      yield* changed
    }),
    runNow: Effect.fnUntraced(function* (name: string) {
      const row = yield* one<FiredRow>(runNow, name)
      yield* tell(client, [row])
      return idOf(row.id)
    }),
    list: Effect.map(timed<EntryRow & { readonly time: Timestamp }>(all), (rows): ReadonlyArray<EntryRecord> =>
      rows.map((row) => toRecord(row, row.time))
    )
  }
}

const fixed = "comes from the code of running nodes"
