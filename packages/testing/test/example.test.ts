/**
 * A small domain service with a worker, tested in three ways: what it enqueues, what the worker does, and both together.
 */
import { Job, Jobs, Migrations, Worker } from "@coppice/jobs"
import { Postgres, Sandbox } from "@coppice/postgres"
import { TestJobs } from "@coppice/testing"
import { assert, layer } from "@effect/vitest"
import { Cause, Context, DateTime, Duration, Effect, Layer, Ref, Schema } from "effect"
import { SqlClient } from "effect/sql"
import type { SqlError } from "effect/sql/SqlError"

// --------------------------------------------------------------------------------------------------------------------
// the application
// --------------------------------------------------------------------------------------------------------------------

class MailboxFull extends Schema.TaggedError<MailboxFull>()("MailboxFull", { to: Schema.String }) {}

class Mailer extends Context.Service<
  Mailer,
  { readonly send: (to: string, text: string) => Effect.Effect<void, MailboxFull> }
>()("example/Mailer") {}

class WelcomeWorker extends Worker.Service<WelcomeWorker>()("WelcomeWorker", {
  queue: "mail",
  maxAttempts: 3,
  args: { to: Schema.String },
  unique: { keys: ["to"] },
  backoff: ({ attempt }) => Duration.minutes(attempt)
}) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const mailer = yield* Mailer
      return Effect.fnUntraced(function* ({ args: { to } }) {
        if (to.endsWith("@")) return yield* Job.cancel("there is no host")
        yield* mailer.send(to, "Welcome!")
      })
    })
  )
}

class Accounts extends Context.Service<
  Accounts,
  { readonly signUp: (email: string) => Effect.Effect<void, SqlError> }
>()("example/Accounts") {
  static readonly layer = Layer.effect(
    Accounts,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const jobs = yield* Jobs.Jobs
      return {
        signUp: (email) =>
          Effect.gen(function* () {
            yield* sql`insert into accounts values (${email})`
            yield* Effect.orDie(jobs.enqueue(WelcomeWorker.job({ to: email }, { scheduleIn: "10 minutes" })))
          }).pipe(sql.withTransaction, Effect.catchTag("SqlError", Effect.fail))
      }
    })
  )
}

// --------------------------------------------------------------------------------------------------------------------
// the tests
// --------------------------------------------------------------------------------------------------------------------

/** One database for all tests of the file. */
const Database = Layer.effectDiscard(
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    yield* Migrations.run
    yield* sql`create table accounts (email text primary key)`
  })
).pipe(Layer.provideMerge(Postgres.layerTest))

/** Remembers what was sent; the mailbox of `full@example.org` is full the first two times. */
class Outbox extends Context.Service<Outbox, Ref.Ref<ReadonlyArray<string>>>()("example/Outbox") {
  static readonly layer = Layer.effect(Outbox, Ref.make<ReadonlyArray<string>>([]))
}

const TestMailer = Layer.effect(
  Mailer,
  Effect.gen(function* () {
    const outbox = yield* Outbox
    let full = 2
    return {
      send: (to: string, text: string) =>
        to === "full@example.org" && full-- > 0
          ? Effect.fail(new MailboxFull({ to }))
          : Ref.update(outbox, (all) => [...all, `${to}: ${text}`])
    }
  })
).pipe(Layer.provideMerge(Outbox.layer))

/** A transaction for each test, which is rolled back. */
const TestSandbox = TestMailer.pipe(Layer.provideMerge(Sandbox.layer))

const sent = Effect.flatMap(Outbox, Ref.get)
const signUp = (email: string) => Effect.flatMap(Accounts, (accounts) => accounts.signUp(email))

layer(Database)("signing up", (it) => {
  const manual = Accounts.layer.pipe(
    Layer.provideMerge(TestJobs.layerManual({ workers: [WelcomeWorker.layer] })),
    Layer.provideMerge(TestSandbox)
  )

  it.effect("enqueues a welcome for ten minutes later", () =>
    Effect.gen(function* () {
      yield* signUp("ada@example.org")
      yield* TestJobs.assertEnqueued(WelcomeWorker, {
        args: { to: "ada@example.org" },
        queue: "mail",
        scheduledIn: "10 minutes"
      })
      assert.deepStrictEqual(yield* sent, [])
    }).pipe(Effect.provide(manual, { local: true }))
  )

  it.effect("enqueues nothing when it fails", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`insert into accounts values ('ada@example.org')`
      yield* Effect.flip(signUp("ada@example.org"))
      yield* TestJobs.refuteEnqueued(WelcomeWorker)
    }).pipe(Effect.provide(manual, { local: true }))
  )

  it.effect("is welcomed in the end, however full the mailbox is at first", () =>
    Effect.gen(function* () {
      yield* signUp("full@example.org")
      const counts = yield* TestJobs.advance("1 day")
      assert.deepStrictEqual([counts.retryable, counts.completed], [2, 1])
      assert.deepStrictEqual(yield* sent, ["full@example.org: Welcome!"])
      const job = yield* TestJobs.assertEnqueued(WelcomeWorker, { state: "completed" })
      assert.deepStrictEqual(DateTime.distance(job.insertedAt, job.scheduledAt), Duration.minutes(10 + 1 + 2))
    }).pipe(Effect.provide(manual, { local: true }))
  )

  const inline = Accounts.layer.pipe(
    Layer.provideMerge(TestJobs.layerInline({ workers: [WelcomeWorker.layer] })),
    Layer.provideMerge(TestSandbox)
  )

  it.effect("sends the welcome", () =>
    Effect.gen(function* () {
      yield* signUp("ada@example.org")
      assert.deepStrictEqual(yield* sent, ["ada@example.org: Welcome!"])
    }).pipe(Effect.provide(inline, { local: true }))
  )

  it.effect("the worker gives up on addresses that cannot be", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* TestJobs.perform(WelcomeWorker, { to: "ada@" }), {
        _tag: "Cancelled",
        reason: "there is no host"
      })
    }).pipe(Effect.provide(WelcomeWorker.layer.pipe(Layer.provide(TestMailer)), { local: true }))
  )

  it.effect("the worker tries again when the mailbox is full", () =>
    Effect.gen(function* () {
      const outcome = yield* TestJobs.perform(WelcomeWorker, { to: "full@example.org" }, { attempt: 2 })
      assert(outcome._tag === "Failed")
      assert.instanceOf(Cause.squash(outcome.cause), MailboxFull)
      assert.deepStrictEqual(outcome.retryIn, Duration.minutes(2))
    }).pipe(Effect.provide(WelcomeWorker.layer.pipe(Layer.provide(TestMailer)), { local: true }))
  )
})
