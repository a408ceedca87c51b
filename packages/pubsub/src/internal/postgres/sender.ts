/**
 * Carries what waits to the database, by one connection of its own: a statement at a time, so that a batch gathers while
 * the one before it is on its way, and nothing overtakes.
 *
 * A batch is repeated until the database has answered. It may have been sent before then; receivers know it by its numbers.
 */
import type { PgConnection } from "@effect/sql-pg"
import { Effect, Exit, Scope } from "effect"
import { SqlError } from "effect/sql"
import { backoff } from "../backoff.ts"
import type { Metrics } from "../metrics.ts"
import { closeApart, live, within } from "./connection.ts"
import { decodeAttached } from "./notification.ts"
import type { Batch, Outbox } from "./outbox.ts"
import { isRefusal, type Statements } from "./statements.ts"

export interface Options {
  readonly open: Open
  /** The first connection. */
  readonly link: Link
  readonly outbox: Outbox
  readonly statements: Statements
  readonly metrics: Metrics
  /** When a sign of life has left: the time at which it was taken from the outbox. */
  readonly onSigned: (takenAt: number) => void
  readonly now: () => number
  /** How long a small statement may take, in milliseconds: after that the connection is taken for dead. */
  readonly statementMillis: number
}

type Open = Effect.Effect<PgConnection.PgConnection, SqlError.SqlError, Scope.Scope>

/** A line by which large messages would take longer than that is of no use. */
const slowestBytesPerMilli = 100

/**
 * After a statement with several messages, the next leaves so many milliseconds later: each costs the server, and every
 * node, more than many of the messages in it. Messages that come one by one leave at once.
 */
const paceMillis = 3

/** A connection, which closes with a scope of its own. */
export interface Link {
  readonly connection: PgConnection.PgConnection
  readonly scope: Scope.Closeable
}

interface Sender {
  /** Sends, for ever. */
  readonly run: Effect.Effect<never>
  /** Removes old attachments, if the database can be reached right now. */
  readonly sweep: Effect.Effect<void>
}

/** Opens a connection, and does something with it first. */
export const connect = <E>(
  open: Open,
  first: (link: Link) => Effect.Effect<unknown, E>
): Effect.Effect<Link, SqlError.SqlError | E> =>
  Effect.flatMap(Scope.make(), (scope) =>
    Effect.onError(
      Effect.tap(
        Effect.map(Scope.provide(open, scope), (connection): Link => ({ connection, scope })),
        first
      ),
      () => closeApart(scope, Exit.void)
    )
  )

/** Uses a connection that is open, and others after it; the last closes with the scope. */
export const make = Effect.fnUntraced(function* (options: Options) {
  const { metrics, onSigned, outbox, statementMillis, statements } = options
  let link: Link | undefined = options.link
  const disconnect = Effect.suspend(() => {
    const { scope } = link ?? {}
    link = undefined
    return scope === undefined ? Effect.void : closeApart(scope, Exit.void)
  })
  yield* Effect.addFinalizer(() => disconnect)

  const attempt = (batch: Batch) =>
    Effect.gen(function* () {
      link ??= yield* connect(options.open, () => Effect.void)
      const millis = statementMillis + batch.bytes / slowestBytesPerMilli
      const answer = yield* within(millis, link.scope, Effect.as(statements.send(batch)(link.connection), true))
      return answer === true ? undefined : (`no answer within ${Math.round(millis)} ms` as const)
    })

  /** Sends a batch, however long it takes. */
  const deliver = Effect.fnUntraced(function* (first: Batch) {
    const pauses = backoff()
    let batch = first
    for (let failures = 0; batch.notifications.length > 0; failures++) {
      const tried = yield* Effect.result(attempt(batch))
      const problem = tried._tag === "Failure" ? tried.failure : tried.success
      if (problem === undefined) {
        if (failures > 0) yield* Effect.logInfo("Broadcasts leave again")
        return batch
      }
      if (SqlError.isSqlError(problem) && isRefusal(problem)) {
        yield* Effect.logError("The database refuses broadcasts, which are given up", problem)
        const small = withoutAttachments(batch)
        metrics.unsent(batch.messages - small.messages)
        batch = small
        continue
      }
      yield* disconnect
      metrics.reconnect("sender")
      if (failures === 0) {
        yield* Effect.logInfo("Broadcasts do not leave: the connection that sends them begins anew", problem)
        // It may have been dead for long; a new one may work at once.
        continue
      }
      yield* pauses.pause
    }
    return batch
  })

  let reported = 0
  const reportLost = Effect.suspend(() => {
    const lost = outbox.lost - reported
    if (lost === 0) return Effect.void
    reported += lost
    metrics.unsent(lost)
    return Effect.logWarning(
      `${lost} broadcasts were given up before they had left for other nodes: the database was too slow or away for too`
        + " long, or they were too large, or not JSON"
    )
  })

  let takenAt = 0
  let notBefore = 0
  const run = Effect.gen(function* () {
    while (true) {
      yield* outbox.filled
      const early = notBefore - options.now()
      if (early > 0) yield* Effect.sleep(early)
      takenAt = options.now()
      const batch = outbox.take()
      if (batch === undefined) continue
      const { messages, sign } = yield* deliver(batch)
      outbox.settle()
      notBefore = messages > 1 ? takenAt + paceMillis : 0
      if (messages > 0) metrics.sent(messages)
      if (sign !== undefined) onSigned(takenAt)
      yield* reportLost
    }
  })

  const sweep = Effect.gen(function* () {
    let more: boolean | undefined = true
    while (more === true) {
      if (link === undefined) return
      more = yield* within(statementMillis, link.scope, statements.sweep(link.connection))
    }
  }).pipe(
    // If it is the connection, the next statement of the sender begins anew; if it is the statement, there is time.
    Effect.catch((error) => Effect.logDebug("Old attachments could not be removed now", error))
  )

  return { run: live(run), sweep: live(sweep) } satisfies Sender
})

/** What is left to try: small messages need less of the database. */
const withoutAttachments = (batch: Batch): Batch => {
  if (batch.attachments.length === 0) return { ...batch, notifications: [], messages: 0, sign: undefined }
  const numbers = new Set(batch.attachments.map(({ seq }) => seq))
  return {
    ...batch,
    notifications: batch.notifications.filter((text) => !numbers.has(decodeAttached(text)?.seq ?? 0)),
    attachments: [],
    messages: batch.messages - batch.attachments.length
  }
}
