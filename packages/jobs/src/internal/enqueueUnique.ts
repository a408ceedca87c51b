/**
 * Inserting jobs of which some are unique.
 *
 * What the inserting statement does not insert has a key that another job has; who that is, is a question for a second
 * statement, because the snapshot of the first is older than the conflict.
 */
import { Effect } from "effect"
import { SqlError, UnknownError } from "effect/sql/SqlError"
import { UniqueBusy } from "../NewJob.ts"
import { stateBit } from "./columns.ts"
import { type Database, idOf } from "./database.ts"
import * as Busy from "./enqueueBusy.ts"
import type * as Insert from "./enqueueInsert.ts"
import * as Replace from "./enqueueReplace.ts"
import { parts, type Result, type Row, type Written } from "./enqueueRow.ts"

export const make = (database: Database, statements: Insert.Statements) => {
  const { holders, insert, release } = statements
  const attempt = Busy.make(database)
  const replace = Replace.make(database)

  /** Inserts rows that all have different keys, and finds the jobs that have the keys of the others. */
  const settle = Effect.fnUntraced(function* (rows: ReadonlyArray<Row>, trace: string | null) {
    const outcomes = new Map<Row, Outcome>()
    let open = rows
    for (let turn = 0; open.length > 0; turn++) {
      if (turn === patience) return yield* restless(open)
      for (const part of parts(open)) {
        const inserted = yield* insert(part, trace)
        for (const [index, row] of part.entries()) {
          const job = inserted[index]
          if (job !== undefined) outcomes.set(row, { _tag: "Inserted", ...job })
        }
      }
      open = open.filter((row) => !outcomes.has(row))
      if (open.length === 0) break
      const found = yield* holders(keysOf(open))
      for (const row of open) {
        const holder = found.get(row.unique?.key ?? "")
        if (holder !== undefined && !holder.expired) outcomes.set(row, { _tag: "Conflict", id: holder.id })
      }
      // A key whose holder has gone since then is free.
      open = open.filter((row) => !outcomes.has(row))
    }
    // A job that is available already does not keep the key that is for scheduled ones.
    const free = [...outcomes].flatMap(([row, outcome]) => (keepsNoKey(row, outcome) ? [outcome.id] : []))
    if (free.length > 0) yield* release(free)
    return outcomes
  })

  /** The same for rows that do not wait: those whose keys somebody has and has not committed are left out. */
  const settleAtOnce = Effect.fnUntraced(function* (rows: ReadonlyArray<Row>, trace: string | null) {
    const found = yield* holders(keysOf(rows))
    const outcomes = new Map<Row, Outcome>()
    for (const row of rows) {
      const holder = found.get(row.unique?.key ?? "")
      if (holder !== undefined && !holder.expired) outcomes.set(row, { _tag: "Conflict", id: holder.id })
    }
    const open = rows.filter((row) => !outcomes.has(row))
    for (const [row, outcome] of yield* attempt(open, (part) => settle(part, trace))) outcomes.set(row, outcome)
    return outcomes
  })

  return Effect.fnUntraced(function* (
    rows: ReadonlyArray<Row>,
    trace: string | null
  ): Effect.fn.Return<Written, SqlError> {
    const results = new Map<Row, Result>()
    const replacements: Array<Replace.Replacement> = []
    const queues = new Set<string>()
    const conflict = (row: Row, id: number) => {
      results.set(row, { _tag: "Conflict", id: idOf(id), replaced: false })
      if (Replace.changes(row)) replacements.push({ id, row })
    }
    // Rows of one key take turns, as if they came one after the other.
    let groups = groupsOf(rows)
    while (groups.length > 0) {
      const firsts = groups.map(([first]) => first)
      const outcomes = yield* settle(firsts.filter(waits), trace)
      const hurried = firsts.filter((row) => !waits(row))
      if (hurried.length > 0)
        for (const [row, outcome] of yield* settleAtOnce(hurried, trace)) outcomes.set(row, outcome)
      const later: Array<Group> = []
      for (const [first, ...others] of groups) {
        const outcome = outcomes.get(first)
        if (outcome === undefined) {
          for (const row of [first, ...others]) if (!waits(row)) results.set(row, busy(row))
          const [next, ...rest] = others.filter(waits)
          if (next !== undefined) later.push([next, ...rest])
          continue
        }
        if (outcome._tag === "Conflict") {
          for (const row of [first, ...others]) conflict(row, outcome.id)
          continue
        }
        results.set(first, { _tag: "Inserted", id: idOf(outcome.id) })
        if (outcome.available) queues.add(first.job.queue)
        const [next, ...rest] = others
        if (next !== undefined && keepsNoKey(first, outcome)) later.push([next, ...rest])
        else for (const row of others) conflict(row, outcome.id)
      }
      groups = later
    }
    for (const turn of turnsOf(replacements)) {
      const changed = new Map((yield* replace(turn)).map((job) => [job.id, job]))
      for (const { id, row } of turn) {
        const job = changed.get(id)
        if (job === undefined) continue
        results.set(row, { _tag: "Conflict", id: idOf(id), replaced: true })
        if (job.available) queues.add(job.queue)
      }
    }
    // Every row has a result.
    return { results: rows.map((row) => results.get(row) as Result), queues }
  })
}

/** Whether a failure after the inserting statement leaves nothing behind that should not be. */
export const isUndemanding = (row: Row): boolean =>
  waits(row) && (row.unique === undefined || keepsKey(row.unique.rule))

// --------------------------------------------------------------------------------------------------------------------

/** What became of a row. */
type Outcome =
  | { readonly _tag: "Inserted"; readonly id: number; readonly available: boolean }
  | { readonly _tag: "Conflict"; readonly id: number }

type Group = readonly [Row, ...Array<Row>]

/** Rows by key, in the order of their first ones; rows without a key are alone. */
const groupsOf = (rows: ReadonlyArray<Row>): ReadonlyArray<Group> => {
  const groups: Array<Group> = []
  const byKey = new Map<string, [Row, ...Array<Row>]>()
  for (const row of rows) {
    const key = row.unique?.key
    const known = key === undefined ? undefined : byKey.get(key)
    if (known !== undefined) {
      known.push(row)
      continue
    }
    const group: [Row, ...Array<Row>] = [row]
    groups.push(group)
    if (key !== undefined) byKey.set(key, group)
  }
  return groups
}

/** One job can be changed once by a statement, so what is said of it later must wait for the next. */
const turnsOf = (
  replacements: ReadonlyArray<Replace.Replacement>
): ReadonlyArray<ReadonlyArray<Replace.Replacement>> => {
  const turns: Array<Array<Replace.Replacement>> = []
  const seen = new Map<number, number>()
  for (const replacement of replacements) {
    const turn = seen.get(replacement.id) ?? 0
    seen.set(replacement.id, turn + 1)
    const list = turns[turn]
    if (list === undefined) turns.push([replacement])
    else list.push(replacement)
  }
  return turns
}

const waits = (row: Row): boolean => row.unique === undefined || row.unique.rule.onBusy === "wait"

const keepsKey = (rule: { readonly states: number }): boolean => (rule.states & stateBit.available) !== 0

const keepsNoKey = (row: Row, outcome: Outcome): boolean =>
  outcome._tag === "Inserted" && outcome.available && row.unique !== undefined && !keepsKey(row.unique.rule)

const busy = (row: Row): Result =>
  row.unique?.rule.onBusy === "skip"
    ? { _tag: "Busy" }
    : { _tag: "Rejected", error: new UniqueBusy({ worker: row.job.worker }) }

const keysOf = (rows: ReadonlyArray<Row>): ReadonlyArray<string> =>
  rows.flatMap((row) => (row.unique === undefined ? [] : [row.unique.key]))

/** How often a key may have been given back between the question who has it and the next attempt. */
const patience = 20

const restless = (rows: ReadonlyArray<Row>): Effect.Effect<never, SqlError> => {
  const workers = [...new Set(rows.map((row) => row.job.worker))].join(", ")
  const message =
    `Unique keys of ${workers} were taken and given back ${patience} times while this transaction asked for them:`
    + " so many jobs with the same key begin and end that none of them is unique for long. Try again"
  return Effect.fail(
    new SqlError({ reason: new UnknownError({ cause: new Error(message), message, operation: "enqueue" }) })
  )
}
