/**
 * Hears the other nodes: one session that listens to one channel, whose death or deafness it finds out.
 *
 * It begins anew after any failure. What came while nobody listened is lost: `Cluster.connected` tells so, once the new
 * session has heard something, which its own hello makes sure of.
 */
import type { PgConnection } from "@effect/sql-pg"
import { Clock, Deferred, Effect, type Exit, Latch, Queue, Random, Schema, Scope } from "effect"
import type { SqlError } from "effect/sql"
import { backoff } from "../backoff.ts"
import type { Cluster } from "../cluster.ts"
import { encodeMessages, encodeSign } from "../envelope.ts"
import type { Metrics } from "../metrics.ts"
import { live, within } from "./connection.ts"
import { type Attached, decodeAttached } from "./notification.ts"
import type { Outbox } from "./outbox.ts"
import { isRefusal, type Statements } from "./statements.ts"

export interface Options {
  readonly node: string
  readonly channel: string
  readonly open: Effect.Effect<PgConnection.PgConnection, SqlError.SqlError, Scope.Scope>
  readonly cluster: Cluster
  readonly outbox: Outbox
  readonly statements: Statements
  readonly metrics: Metrics
  readonly heartbeatMillis: number
  /** Messages of other nodes that came since it was asked. */
  readonly received: () => number
}

/** The session is not what it should be. */
export class Deaf extends Schema.TaggedError<Deaf>("@coppice/pubsub/Deaf")("Deaf", { problem: Schema.String }) {
  override get message(): string {
    return this.problem
  }
}

type Problem = SqlError.SqlError | Deaf

/** How long an attachment may take, in milliseconds: 16 MiB by a slow line. */
const fetchMillis = 60_000

/** After so many characters, some hundreds of messages at most, subscribers have a turn. */
const turnLength = 6_000

/** How long an answer to another node's hello waits for more of them, in milliseconds, at most. */
const answerMillis = 50

/** The clock of sockets: `now` is in milliseconds, from an instant of its own. */
const clock = Clock.Clock.defaultValue()
const now = (): number => Number(clock.monotonicTimeNanosUnsafe() / 1_000n) / 1_000

export const make = (options: Options) => {
  const { channel, cluster, heartbeatMillis, metrics, node, outbox, statements } = options
  const timeoutMillis = heartbeatMillis / 2
  const first = Deferred.makeUnsafe<void, Problem>()
  const greeted = Latch.makeUnsafe(false)
  /** Whether this session has heard anything. */
  let hears = false
  let heardOwnAt = Number.NEGATIVE_INFINITY
  /** Since when this session should have heard a sign of this node. */
  let awaitingSince: number | undefined
  let fetching = false
  /** Whether a session was lost, and none has heard anything since. */
  let lost = false

  const heard = (): void => {
    if (hears) return
    hears = true
    cluster.connected(now())
  }

  const heardOwn = (): void => {
    heardOwnAt = now()
    awaitingSince = undefined
    Deferred.doneUnsafe(first, Effect.void)
  }

  const hear = (text: string): void => {
    heard()
    switch (cluster.receive(text, now())) {
      case "own":
        return heardOwn()
      case "hello":
        return void greeted.openUnsafe()
      case "nothing":
        return metrics.malformed()
    }
  }

  /** Gets a packet that was too large, before anything that came after it is looked at. */
  const hearAttached = Effect.fnUntraced(function* (
    attached: Attached,
    connection: PgConnection.PgConnection,
    scope: Scope.Scope
  ) {
    heard()
    const { from, seq, to } = attached
    if (from === node) return heardOwn()
    // Its number counts, also where it is for somebody else.
    if (to !== undefined && to !== node) return hear(encodeMessages(from, seq, []))
    fetching = true
    const found = yield* within(
      fetchMillis,
      scope,
      Effect.map(statements.fetch(attached)(connection), (body) => ({ body })).pipe(
        // Another session would be refused as well, and hear nothing meanwhile.
        Effect.catchIf(isRefusal, (error) =>
          Effect.as(Effect.logError("The database refuses a large broadcast of another node to this one", error), {
            body: undefined
          })
        )
      )
    )
    fetching = false
    if (found === undefined) return yield* new Deaf({ problem: `no attachment within ${fetchMillis} ms` })
    // Removed before this node came to read it, or refused: as if the packet was never heard, and its sender were asked
    // what came last.
    hear(found.body ?? encodeSign("alive", from, seq))
  })

  const receive = Effect.fnUntraced(function* (
    connection: PgConnection.PgConnection,
    notifications: Queue.Dequeue<PgConnection.Notification, SqlError.SqlError>,
    scope: Scope.Scope
  ) {
    while (true) {
      let length = 0
      for (const { payload } of yield* Queue.takeAll(notifications)) {
        const attached = decodeAttached(payload)
        if (attached === undefined) hear(payload)
        else yield* hearAttached(attached, connection, scope)
        length += payload.length
        if (length < turnLength) continue
        length = 0
        yield* Effect.yieldNow
      }
      const received = options.received()
      if (received > 0) metrics.received(received)
      if (lost) yield* Effect.logInfo("Broadcasts of other nodes are heard again")
      lost = false
    }
  })

  /** Ends when the session is found to be of no use. */
  const check = Effect.fnUntraced(function* (connection: PgConnection.PgConnection, scope: Scope.Scope) {
    for (let round = 0; ; round++) {
      yield* Effect.flatMap(Random.next, (random) => Effect.sleep(timeoutMillis * (0.9 + 0.1 * random)))
      if (awaitingSince !== undefined && !fetching && now() - awaitingSince > timeoutMillis) {
        return yield* new Deaf({ problem: `this node does not hear what it has told itself for ${timeoutMillis} ms` })
      }
      if (round % 2 === 0 || fetching) continue
      const listens = yield* within(timeoutMillis, scope, statements.listens(connection))
      if (listens === undefined) return yield* new Deaf({ problem: `no answer within ${timeoutMillis} ms` })
      if (!listens) return yield* new Deaf({ problem: "the session does not listen any more" })
      cluster.tick(now())
    }
  })

  /** One connection, until it fails. */
  const session = Effect.gen(function* () {
    // The connection goes first: then nobody waits for the answer to UNLISTEN.
    const connected = yield* Scope.make()
    const listening = yield* Scope.make()
    const close = (exit: Exit.Exit<unknown, unknown>) =>
      Effect.forkDetach(Effect.andThen(Scope.close(connected, exit), Scope.close(listening, exit)), {
        startImmediately: true
      })
    return yield* Effect.gen(function* () {
      const connection = yield* Scope.provide(options.open, connected)
      const pinned = yield* Scope.provide(connection.pin, listening)
      const notifications = yield* within(timeoutMillis, connected, Scope.provide(pinned.listen(channel), listening))
      if (notifications === undefined)
        return yield* new Deaf({ problem: `no answer to LISTEN within ${timeoutMillis} ms` })
      outbox.say("hello")
      return yield* Effect.raceFirst(receive(pinned, notifications, connected), check(pinned, connected))
    }).pipe(Effect.onExit((exit) => close(exit)))
  })

  const run = Effect.gen(function* () {
    const pauses = backoff()
    while (true) {
      hears = false
      fetching = false
      awaitingSince = undefined
      const failure = yield* Effect.flip(session)
      cluster.disconnected()
      Deferred.doneUnsafe(first, Effect.fail(failure))
      metrics.reconnect("listener")
      if (hears) pauses.reset()
      yield* lost
        ? Effect.logDebug("Broadcasts of other nodes are still not heard", failure)
        : Effect.logInfo("Broadcasts of other nodes are not heard: the listening connection begins anew", failure)
      lost = true
      yield* pauses.pause
    }
  })

  /** Tells the others from time to time that this node is there, and whoever asks. */
  const speak = Effect.raceFirst(
    Effect.forever(
      Effect.gen(function* () {
        const random = yield* Random.next
        yield* Effect.sleep(cluster.pause() * (0.9 + 0.1 * random))
        outbox.say("alive")
      })
    ),
    Effect.forever(
      Effect.gen(function* () {
        yield* greeted.await
        const random = yield* Random.next
        // When many nodes start at once, one answer is for all of them.
        yield* Effect.sleep(answerMillis * random)
        greeted.closeUnsafe()
        outbox.say("alive")
      })
    )
  )

  return {
    /** Listens, for ever. */
    run: live(run),
    speak: live(speak),
    /** Ends when this node has heard itself for the first time, or fails when the first session does before that. */
    first: Deferred.await(first),
    /** A sign that was taken from the outbox then has left. */
    onSigned: (takenAt: number) => {
      if (heardOwnAt < takenAt) awaitingSince ??= now()
    },
    now
  }
}
