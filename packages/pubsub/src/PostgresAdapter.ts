/**
 * Broadcasts between nodes that share a PostgreSQL database, by LISTEN and NOTIFY.
 *
 * A node has two connections of its own, apart from the client's pool: one that listens, to one channel however many
 * topics there are, and one that notifies. What is broadcast while a statement is on its way leaves with the next, and
 * while much is broadcast they leave every 3 milliseconds, so many broadcasts are one commit. What is too large for a
 * notification waits for its receivers in the table `attachments`.
 *
 * **What is delivered.** An event that the database has committed is delivered once to each node that listens, those of
 * one node in order. A node whose connection was lost, or that was frozen too long, is told of a `Gap` in the place of
 * what it has missed. While the database cannot be reached, broadcasts wait; when too many do, the oldest are given up,
 * which is a gap for the others. A node that is killed takes with it what had not left.
 *
 * **What it finds out.** A connection that is dead without an end, or does not listen any more, within one and a half
 * heartbeats. Whatever happened to it, it is opened again, after 100 milliseconds at first and 5 seconds at the most.
 */
import { PgClient } from "@effect/sql-pg"
import { Duration, Effect, Redacted, Schema } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import type * as Adapter from "./Adapter.ts"
import { Cluster } from "./internal/cluster.ts"
import { counting, metrics } from "./internal/metrics.ts"
import * as Connection from "./internal/postgres/connection.ts"
import * as Listener from "./internal/postgres/listener.ts"
import { Outbox } from "./internal/postgres/outbox.ts"
import * as Sender from "./internal/postgres/sender.ts"
import * as Statements from "./internal/postgres/statements.ts"
import * as Migrations from "./Migrations.ts"

/** How nodes meet, and what they put up with. */
export interface Options {
  /** The channel of the nodes that hear each other, at most 63 bytes. `"coppice_pubsub_"` and the schema's name by default. */
  readonly channel?: string | undefined
  /**
   * Where to listen and to notify, when the client goes through a pooler: LISTEN needs a session of its own. The same
   * database, as a URL for PostgreSQL itself. The client's `ssl` holds for it too.
   */
  readonly listenUrl?: Redacted.Redacted | undefined
  /**
   * How often the listening connection is looked at, how long a quiet node says nothing, and how long the database may
   * take to take what is broadcast before the connection is given up: 10 seconds by default. A node that was not heard for
   * three times as long is not counted any more.
   */
  readonly heartbeat?: Duration.Input | undefined
  /** How long events over 7 kB can be fetched: 2 minutes by default. A node that was frozen for longer gets a `Gap`. */
  readonly attachmentTtl?: Duration.Input | undefined
  /** How many events may wait to leave: 100,000 by default. */
  readonly maxWaiting?: number | undefined
  /** How many bytes of events may wait to leave: 64 MiB by default. An event larger than 16 MiB never leaves. */
  readonly maxWaitingBytes?: number | undefined
}

/** This node cannot listen to the others: the database is not there, or something between it and here swallows LISTEN. */
export class ListenUnavailable extends Schema.TaggedError<ListenUnavailable>("@coppice/pubsub/ListenUnavailable")(
  "ListenUnavailable",
  {
    channel: Schema.String,
    /** What happened. */
    problem: Schema.String,
    cause: Schema.optionalKey(Schema.Defect())
  }
) {
  override get message(): string {
    return (
      `This node cannot listen to the channel ${this.channel} (${this.problem}): let it reach PostgreSQL itself, by a`
      + " `listenUrl` that bypasses the connection pooler, or use PubSub.layerLocal where there is one node"
    )
  }
}

/**
 * The adapter that `PubSub.layerPostgres` uses. It creates its tables (`Migrations.run`), and starts only when this node
 * has heard itself through the database, within 5 seconds.
 */
export const make =
  (options: Options = {}): Adapter.Make<ListenUnavailable | Migrations.MigrationsError, PgClient.PgClient> =>
  (node, receiver) =>
    Effect.gen(function* () {
      const client = yield* PgClient.PgClient
      const schema = yield* Migrations.SchemaName
      yield* Effect.provideService(Migrations.run, SqlClient.SqlClient, client)
      const channel = options.channel ?? `coppice_pubsub_${schema}`
      const heartbeatMillis = Duration.toMillis(options.heartbeat ?? "10 seconds")
      const ttlMillis = Duration.toMillis(options.attachmentTtl ?? "2 minutes")
      if (options.listenUrl !== undefined && !URL.canParse(Redacted.value(options.listenUrl))) {
        // Without a cause: that would say what it is instead, with the password.
        return yield* new ListenUnavailable({ channel, problem: "listenUrl is not a URL" })
      }
      const unavailable = (error: SqlError.SqlError | Listener.Deaf) =>
        new ListenUnavailable({ channel, problem: problemOf(error), cause: error })
      // A client that comes back may lead elsewhere.
      const open = (name: string) =>
        Effect.suspend(() => Connection.open(client.config, options.listenUrl, `coppice pubsub ${name}`))
      const measured = yield* metrics
      const counted = counting(receiver, measured)
      const statements = Statements.make({ channel, node, schema: `"${schema}"`, ttlMillis })
      const cluster = new Cluster(node, counted.receiver, { heartbeatMillis })
      let ascii = false
      const link = yield* Sender.connect(open("sender"), ({ connection }) =>
        Effect.flatMap(statements.look(connection), ({ tables, unicode }) => {
          ascii = !unicode
          return tables ? Effect.void : Effect.fail(new Listener.Deaf({ problem: elsewhere }))
        })
      ).pipe(Effect.mapError(unavailable))
      const outbox = new Outbox({
        node,
        cluster,
        ascii,
        maxMessages: Math.max(1, options.maxWaiting ?? 100_000),
        maxBytes: Math.max(1, options.maxWaitingBytes ?? 64 * 1024 * 1024)
      })
      const listener = Listener.make({
        node,
        channel,
        open: open("listener"),
        cluster,
        outbox,
        statements,
        metrics: measured,
        heartbeatMillis,
        received: counted.take
      })
      const sender = yield* Sender.make({
        open: open("sender"),
        link,
        outbox,
        statements,
        metrics: measured,
        onSigned: listener.onSigned,
        now: listener.now,
        statementMillis: heartbeatMillis
      })
      yield* Effect.forkScoped(sender.run)
      yield* Effect.forkScoped(
        Effect.forever(Effect.andThen(Connection.live(Effect.sleep(ttlMillis / 4)), sender.sweep))
      )
      yield* Effect.addFinalizer(() => {
        outbox.say("bye")
        return Connection.live(
          Effect.timeoutOrElse(outbox.drained, { duration: closeTimeout, orElse: () => Effect.void })
        ).pipe(Effect.andThen(Effect.sync(() => outbox.close())))
      })
      yield* Effect.forkScoped(listener.run)
      yield* Effect.forkScoped(listener.speak)
      yield* Connection.live(
        Effect.timeoutOrElse(Effect.mapError(listener.first, unavailable), {
          duration: startTimeout,
          orElse: () =>
            Effect.fail(
              new ListenUnavailable({ channel, problem: `what it told itself did not arrive within ${startTimeout}` })
            )
        })
      )
      return {
        send: (message, to) => outbox.add(message, to),
        flush: outbox.settled
      }
    })

const elsewhere = "the tables are not there, so this is not the client's database"

const startTimeout = "5 seconds"

/** How long a node that ends waits for what it has broadcast to leave. */
const closeTimeout = "2 seconds"

const problemOf = (error: SqlError.SqlError | Listener.Deaf): string => {
  if (!SqlError.isSqlError(error)) return error.problem
  const { cause, message = "the database cannot be reached" } = error.reason
  // Of several addresses that were tried, the cause says nothing.
  return cause instanceof Error && cause.message !== "" ? `${message}: ${cause.message}` : message
}
