/**
 * The loop that writes verdicts, all that have come together while the last ones were written.
 *
 * While the database does not answer they are kept, until this node must take its leases for lost. A verdict that the
 * database refuses for what it contains is written with a plain text in its place, and one of a job whose row somebody has
 * locked is written later: neither ever holds up the others.
 */
import { Effect } from "effect"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import type { JobEvent } from "../JobEvent.ts"
import { endEvent, waitedMillis } from "./endEvent.ts"
import type { Ended, Engine, Held } from "./engine.ts"
import type * as Settle from "./settle.ts"

/** How many verdicts one statement writes. */
const batch = 1_000

/** From so many characters on a statement takes no more verdicts. */
const batchSize = 8_000_000

/** How often a batch is tried that the database does not take although it answers, before it is divided. */
const firstTries = 5

/** Between two tries while the database does not answer, at most. */
const longestPauseMillis = 2_000

export const run = (engine: Engine, statements: Statements): Effect.Effect<never> =>
  Effect.gen(function* () {
    while (true) {
      engine.write.closeUnsafe()
      const now = engine.now()
      const ready = engine.unwritten.filter(({ notBefore }) => notBefore <= now)
      if (ready.length > 0) yield* flush(engine, statements, firstOf(ready))
      else if (engine.unwritten.length === 0) yield* engine.write.await
      else yield* Effect.timeoutOrElse(engine.write.await, { duration: lockedMillis, orElse: () => Effect.void })
    }
  })

type Statements = Pick<ReturnType<typeof Settle.make>, "complete" | "present" | "settle">

/** After so long a job whose row was locked is tried again. */
const lockedMillis = 500

const flush = Effect.fnUntraced(function* (engine: Engine, statements: Statements, ended: ReadonlyArray<Ended>) {
  const { epoch } = engine
  const plain = ended
    .filter(({ notBefore, verdict }) => verdict === undefined && notBefore === 0)
    .toSorted((a, b) => a.held.row.id - b.held.row.id)
  const others = ended.filter(({ notBefore, verdict }) => verdict !== undefined || notBefore > 0)
  // They leave the list only when they are written, so that nothing is lost if this loop crashes here.
  const write = (some: ReadonlyArray<Ended>, by: Write) => persist({ engine, epoch, write: by }, some, firstTries)
  if (plain.length > 0) yield* write(plain, (some) => completePlain(statements, some))
  if (others.length > 0) yield* write(others, (some) => settleOthers(statements, some))
})

/** As many as one statement takes, by their number and by their size. */
const firstOf = (unwritten: ReadonlyArray<Ended>): ReadonlyArray<Ended> => {
  let size = 0
  let n = 0
  while (n < batch && n < unwritten.length && size < batchSize) size += unwritten[n++]?.verdict?.size ?? 0
  return unwritten.slice(0, n)
}

/** What was written of each job, or that its row was locked; a job that is missing was lost. */
type Written = ReadonlyMap<number, Omit<Settle.Settled, "id"> | "locked">

const idsOf = (ended: ReadonlyArray<Ended>) => ended.map(({ held }) => held.row.id)
const leasesOf = (ended: ReadonlyArray<Ended>) => ended.map(({ held }) => held.row.lease)

const completePlain = (statements: Statements, ended: ReadonlyArray<Ended>): Effect.Effect<Written, SqlError> => {
  const unique = ended.some(({ held }) => held.row.unique)
  return statements.complete(idsOf(ended), leasesOf(ended), unique).pipe(
    Effect.map((ids): Written => new Map(ids.map((id) => [id, completed]))),
    Effect.catchIf(isLocked, () => settleOthers(statements, ended))
  )
}

const settleOthers = Effect.fnUntraced(function* (
  statements: Statements,
  ended: ReadonlyArray<Ended>
): Effect.fn.Return<Written, SqlError> {
  const settled = yield* statements.settle(ended.map(lineOf))
  const written = new Map<number, Omit<Settle.Settled, "id"> | "locked">(settled.map((one) => [one.id, one]))
  const missing = ended.filter(({ held }) => !written.has(held.row.id))
  if (missing.length > 0) {
    for (const id of yield* statements.present(idsOf(missing), leasesOf(missing))) written.set(id, "locked")
  }
  return written
})

const lineOf = ({ held, verdict }: Ended): Settle.Line =>
  verdict?.line ?? { id: held.row.id, lease: held.row.lease, to: "completed" }

/** Somebody has locked a row for longer than this loop waits. */
const isLocked = (error: SqlError): boolean => codeOf(error) === "55P03"

const completed = { state: "completed", reason: null } as const

type Write = (ended: ReadonlyArray<Ended>) => Effect.Effect<Written, SqlError>

/** Where verdicts go, and whose they are: what an identity ended with that was given up is not written. */
interface Target {
  readonly engine: Engine
  readonly epoch: number
  readonly write: Write
}

const persist = (target: Target, ended: ReadonlyArray<Ended>, tries: number): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { engine, epoch, write } = target
    let pauseMillis = 50
    let left = tries
    while (engine.epoch === epoch) {
      const written = yield* Effect.result(write(ended))
      // Given up meanwhile, all of them.
      if (engine.epoch !== epoch) return
      if (written._tag === "Success") return conclude(engine, ended, written.success)
      const answer = answerOf(written.failure)
      if (answer === "refused" || (answer === "failed" && --left <= 0)) {
        return yield* bisect(target, ended, written.failure)
      }
      yield* Effect.logWarning(
        `${ended.length} finished jobs could not be written, and are kept: trying again in ${pauseMillis} ms`,
        written.failure
      )
      yield* Effect.sleep(pauseMillis)
      pauseMillis = Math.min(longestPauseMillis, pauseMillis * 2)
    }
  })

/** Finds the verdicts that the database refuses, and writes the rest. */
const bisect = (target: Target, ended: ReadonlyArray<Ended>, error: SqlError): Effect.Effect<void> => {
  const { engine } = target
  if (ended.length > 1) {
    const middle = ended.length >> 1
    return Effect.andThen(persist(target, ended.slice(0, middle), 1), persist(target, ended.slice(middle), 1))
  }
  const [only] = ended
  if (only?.verdict === undefined || isPlainText(only)) {
    return Effect.andThen(
      Effect.logError("What became of a job could not be written: it is made available again", error),
      Effect.sync(() => {
        if (only !== undefined) drop(engine, only)
      })
    )
  }
  const { line } = only.verdict
  const { result: _, ...rest } = line
  const replaced: Ended = {
    ...only,
    verdict: {
      ...only.verdict,
      size: 0,
      line: {
        ...rest,
        error: { kind: line.error?.kind ?? "result not recorded", message: unwritable, node: engine.name }
      }
    }
  }
  return Effect.suspend(() => {
    engine.unwritten = engine.unwritten.map((ended) => (ended === only ? replaced : ended))
    return persist(target, [replaced], 1)
  })
}

const unwritable = "What the attempt ended with could not be stored"

const isPlainText = ({ verdict }: Ended): boolean =>
  verdict?.line.error?.message === unwritable && verdict.line.result === undefined

/**
 * Whether the database has something against the data, so that trying again cannot help; whether it is not to be reached
 * or overloaded, so that only waiting helps; or whether something else is wrong, which may be the data or not.
 */
const answerOf = (error: SqlError): "refused" | "away" | "failed" => {
  const code = codeOf(error)
  // What the operating system says of a connection has codes too, which are not of five characters of this kind.
  if (typeof code !== "string" || !/^[0-9A-Z]{5}$/.test(code)) return "away"
  // Data exceptions, constraint violations, program limits.
  if (/^(22|23|54)/.test(code)) return "refused"
  // Connections, conflicts of transactions, resources, shutdown, locks, a standby; not a statement that takes too long.
  return /^(08|25|40|53|55|57P)/.test(code) ? "away" : "failed"
}

const codeOf = (error: SqlError): unknown => {
  if (!isSqlError(error)) return undefined
  const { cause } = error.reason
  return typeof cause === "object" && cause !== null && "code" in cause ? cause.code : undefined
}

const conclude = (engine: Engine, all: ReadonlyArray<Ended>, written: Written): void => {
  const ended = all.filter(({ held }) => written.get(held.row.id) !== "locked")
  const done = new Set(all)
  const notBefore = engine.now() + lockedMillis
  engine.unwritten = engine.unwritten.filter((one) => !done.has(one))
  for (const one of all) {
    if (written.get(one.held.row.id) === "locked") engine.unwritten.push({ ...one, notBefore })
  }
  const events: Array<JobEvent> = []
  const groups = new Map<string, Group>()
  for (const one of ended) {
    const { held } = one
    engine.forget(held)
    // The end of a job may be what the limit over all nodes has waited for.
    if (held.queue.limited) held.queue.look()
    const found = written.get(held.row.id)
    const end = found === "locked" ? undefined : found
    const state = end?.state
    if (state === "retryable" || state === "scheduled") engine.scheduled(one.verdict?.line.delayMillis ?? 0)
    const group = groupOf(engine, groups, held)
    if (held.worker !== undefined) group.observe(one.durationMillis, waitedMillis(held.row))
    if (state === "completed" && !engine.hub.active) group.completed++
    else events.push(endEvent(engine.attempt(held), held.row, one.durationMillis, one.verdict, end))
  }
  for (const { completed, queue, worker } of groups.values()) {
    if (completed > 0) engine.hub.count("Completed", queue, worker, completed)
  }
  engine.hub.emit(events)
}

/** Jobs of one worker in one queue, which are counted together. */
interface Group {
  readonly queue: string
  readonly worker: string
  readonly observe: ReturnType<Engine["hub"]["observer"]>
  completed: number
}

const groupOf = (
  engine: Engine,
  groups: Map<string, Group>,
  { queue: { name: queue }, row: { worker } }: Held
): Group => {
  const key = `${queue} ${worker}`
  const known = groups.get(key)
  if (known !== undefined) return known
  const made = { queue, worker, observe: engine.hub.observer(queue, worker), completed: 0 }
  groups.set(key, made)
  return made
}

const drop = (engine: Engine, ended: Ended): void => {
  engine.unwritten = engine.unwritten.filter((one) => one !== ended)
  engine.forget(ended.held)
}
