/**
 * Running jobs on demand: claimed one by one, run in the fiber of whoever asks, and settled before the next.
 *
 * All of it happens on the client that the service was built with, so inside a transaction it is a part of that, and is
 * undone with it. There each handler has a savepoint: a statement that fails in it must not end the transaction.
 */
import { Cause, Clock, Duration, Effect, Exit, Fiber, type Latch, Option } from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { type Job, JobId } from "../Job.ts"
import type { Outcome, Ran } from "../Runner.ts"
import type { Running as Worker } from "../Worker.ts"
import * as Attempt from "./attempt.ts"
import type { ClaimedRow } from "./claim.ts"
import type { Client } from "./client.ts"
import type { Hub } from "./hub.ts"
import * as Nodes from "./nodes.ts"
import * as Statements from "./runnerStatements.ts"
import { endEvent } from "./endEvent.ts"
import * as Settle from "./settle.ts"

/** What a runner runs with. */
export interface Options {
  readonly client: Client
  readonly hub: Hub
  /** Fires the crontab, and answers in how many milliseconds it is to be fired again. */
  readonly cron: Effect.Effect<number> | undefined
  /** Opened when somebody of this process wants running jobs to be cancelled. */
  readonly asked: Latch.Latch
  readonly workers: ReadonlyMap<string, Worker>
  /** The node's name. */
  readonly name: string
}

/** A job that is being run, as its heartbeat sees it. */
interface Held {
  readonly lease: number
  readonly fiber: Fiber.Fiber<unknown, unknown>
  interruption: Attempt.Interruption | undefined
}

/** A node while it is registered. */
export interface Node {
  /** Another one after it was declared dead. */
  id: string
  readonly held: Map<number, Held>
}

/** What to do with a job that would run again later. */
export type Later = "keep" | "end"

/** As `Jobs.layer` has it by default. Only running nodes rescue, so how often a job may be rescued is theirs to say. */
const lease = Nodes.lease(Duration.seconds(30))
const maxRescues = 3

/** How long a heartbeat waits for its answer, and until the next one after it failed. */
const answerTimeout = Duration.seconds(2)
const retryPause = Duration.seconds(1)

/** A node that has no row in the table of nodes. */
const nobody = "00000000-0000-0000-0000-000000000000"

export type Runner = ReturnType<typeof make>

export const make = ({ asked, client, cron, hub, name, workers }: Options) => {
  const { database } = client
  const { client: sql, time } = database
  const statements = Statements.make(database)
  const nodes = Nodes.make(database, lease, maxRescues)
  const { settleOne } = Settle.make(database)
  const known: Statements.Known = new Map(
    Array.from(workers.values(), ({ spec }) => [spec.name, spec.argsVersion] as const)
  )

  const inTransaction = Effect.map(Effect.serviceOption(sql.transactionService), Option.isSome)

  // On virtual time there is one process, and its database dies with it: nobody would have to rescue its jobs.
  const virtual = time === "clock"

  /** Runs something as a node of its own, which is gone afterwards. */
  const asNode = <A, E, R>(use: (node: Node) => Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R> =>
    Effect.acquireUseRelease(
      Effect.map(virtual ? Effect.succeed(nobody) : nodes.register(name), (id): Node => ({ id, held: new Map() })),
      (node) =>
        // What nobody else can see before the commit, nobody takes away.
        Effect.flatMap(inTransaction, (inside) => (inside ? use(node) : Effect.raceFirst(use(node), heartbeat(node)))),
      (node) =>
        virtual
          ? Effect.void
          : // It counts as dead before long in any case.
            Effect.catch(statements.leave(node.id), (error) =>
              Effect.logDebug("A runner could not say that it is gone", error)
            )
    )

  /** Says that the node lives, learns what others want of its jobs, and gives them up before others may take them. */
  const heartbeat = (node: Node): Effect.Effect<never> =>
    Effect.gen(function* () {
      let sent = yield* Clock.monotonicTimeNanos
      let pause = lease.interval
      while (true) {
        yield* virtual ? asked.await : Effect.timeoutOrElse(asked.await, { duration: pause, orElse: () => Effect.void })
        asked.closeUnsafe()
        const began = yield* Clock.monotonicTimeNanos
        const held = [...node.held]
        const beaten = yield* Effect.result(
          Effect.timeoutOrElse(beat(node, held), {
            duration: answerTimeout,
            orElse: () => Effect.fail(`no answer within ${Duration.format(answerTimeout)}`)
          })
        )
        if (beaten._tag === "Failure") {
          yield* Effect.logWarning("A heartbeat failed", beaten.failure)
          const silentFor = Duration.nanos((yield* Clock.monotonicTimeNanos) - sent)
          if (!virtual && Duration.isGreaterThan(silentFor, lease.fence))
            for (const [, one] of held) interrupt(one, "lost")
          pause = retryPause
          continue
        }
        sent = began
        pause = lease.interval
      }
    })

  const beat = Effect.fnUntraced(function* (node: Node, held: ReadonlyArray<readonly [number, Held]>) {
    const { cancel, lost, registered } = yield* nodes.beat(
      node.id,
      held.map(([id]) => id),
      held.map(([, { lease }]) => lease)
    )
    const dead = !virtual && !registered
    for (const [id, one] of held) {
      // What was settled meanwhile is not ours any more either.
      if (node.held.get(id) !== one) continue
      if (dead || lost.includes(id)) interrupt(one, "lost")
      else if (cancel.includes(id)) interrupt(one, "cancel")
    }
    if (dead) node.id = yield* nodes.register(name)
  })

  /** The handler's exit, and what interrupted it if it was not itself. */
  const runHandler = Effect.fnUntraced(function* (node: Node, worker: Worker, job: Job, trace: string | null) {
    const inside = yield* inTransaction
    const run = Attempt.run(worker, job, trace)
    const services = yield* Effect.context<never>()
    // In a fiber of its own, which can be interrupted for more than one reason.
    const fiber = yield* Effect.forkChild(
      Effect.provideContext(inside ? sql.withTransaction(run) : run, Attempt.servicesOf(services, job)),
      { startImmediately: true }
    )
    const held: Held = { lease: job.lease, fiber, interruption: undefined }
    node.held.set(job.id, held)
    yield* Effect.interruptible(Fiber.await(fiber)).pipe(
      Effect.onInterrupt(() => Effect.sync(() => interrupt(held, "shutdown"))),
      Effect.exit
    )
    const exit = yield* Fiber.await(fiber)
    node.held.delete(job.id)
    return { exit, interruption: held.interruption }
  })

  /** Runs a claimed job. Once its handler has begun, what becomes of it is written, however this ends. */
  const attempt = (node: Node, { queue, row }: Statements.Claim, worker: Worker, later: Later) =>
    Effect.gen(function* () {
      const about = { id: JobId.make(row.id), worker: row.worker, queue, attempt: row.attempt, lease: row.lease }
      const began = yield* Clock.currentTimeMillis
      if (hub.active) yield* client.emit([{ _tag: "Started", ...about }])
      const job = Attempt.decode(worker, row, queue)
      const { exit, interruption } = Exit.isSuccess(job)
        ? yield* runHandler(node, worker, job.value, row.trace)
        : { exit: job, interruption: undefined }
      const error = Exit.isFailure(job) ? Cause.findErrorOption(job.cause) : Option.none()
      const judged = Option.isSome(error)
        ? Attempt.invalidArgs(row, name, error.value)
        : yield* Attempt.judge(worker, row, name, exit, interruption)
      const verdict = later === "end" ? ended(judged, name) : judged
      const settled = interruption === "lost" ? undefined : yield* settleOne(verdict.line)
      const durationMillis = (yield* Clock.currentTimeMillis) - began
      const ran: Ran = {
        id: about.id,
        worker: row.worker,
        queue,
        attempt: row.attempt,
        outcome: outcomeOf(row, judged, exit),
        state: settled?.state ?? "lost"
      }
      yield* client.emit([endEvent(about, row, durationMillis, verdict, settled)])
      return ran
    })

  /** Claims a job and runs it. Undefined if somebody else has it, or it is not there. */
  const runOne = (node: Node, id: number, early: boolean, later: Later): Effect.Effect<Ran | undefined, SqlError> =>
    Effect.uninterruptible(
      Effect.gen(function* () {
        const claim = yield* statements.claim(id, node.id, early)
        if (claim === undefined) return undefined
        const worker = workers.get(claim.row.worker)
        if (worker === undefined || claim.row.args_version > worker.spec.argsVersion) {
          yield* settleOne(Attempt.handBack(claim.row).line)
          return undefined
        }
        return yield* attempt(node, claim, worker, later)
      })
    )

  /** Answers in how many milliseconds there is more to do. */
  const stage = Effect.gen(function* () {
    const next = cron === undefined ? undefined : yield* cron
    const due = yield* statements.stage
    return next === undefined || due === undefined ? (next ?? due) : Math.min(next, due)
  })

  return { ...statements, asNode, inTransaction, known, runOne, stage, virtual }
}

const interrupt = (held: Held, why: Attempt.Interruption): void => {
  if (held.interruption !== undefined) return
  held.interruption = why
  held.fiber.interruptUnsafe()
}

/** What a job ends as that is not to run again. */
const ended = (verdict: Attempt.Verdict, node: string): Attempt.Verdict => {
  const { line } = verdict
  if (line.to === "completed" || line.to === "cancelled" || line.to === "discarded") return verdict
  const { id, lease } = line
  const message = `It would run again after ${Duration.format(verdict.delay)}, but nothing runs later here`
  return line.to === "retryable"
    ? { ...verdict, kind: "discarded", line: { ...line, to: "discarded" } }
    : {
        ...verdict,
        kind: "cancelled",
        message,
        line: { id, lease, to: "cancelled", error: { kind: verdict.kind, message, node } }
      }
}

/** What an attempt ended with, whatever is written of it. */
export const outcomeOf = (
  row: Pick<ClaimedRow, "attempt" | "max_attempts">,
  verdict: Attempt.Verdict,
  exit: Exit.Exit<unknown, unknown>
): Outcome<unknown> => {
  const { delay, kind, line, message } = verdict
  if (Exit.isSuccess(exit)) return { _tag: "Completed", result: exit.value }
  const { cause } = exit
  if (line.error?.kind === "invalid args") return { _tag: "Failed", cause, retryIn: undefined }
  switch (kind) {
    case "cancelled":
      return { _tag: "Cancelled", reason: message }
    case "discarded":
      return { _tag: "Discarded", reason: message }
    case "snoozed":
      return { _tag: "Snoozed", duration: delay }
    case "handed back":
      return { _tag: "Interrupted" }
    default:
      return { _tag: "Failed", cause, retryIn: row.attempt < row.max_attempts ? delay : undefined }
  }
}
