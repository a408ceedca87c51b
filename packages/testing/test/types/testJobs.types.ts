/** What can be expected and performed, and the words with which the compiler refuses the rest. */
import { type Jobs, type NewJob, Runner, Worker } from "@coppice/jobs"
import type { Pglite } from "@coppice/postgres"
import { TestJobs } from "@coppice/testing"
import { Context, type DateTime, Effect, type Layer, Schema } from "effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"

class Mailer extends Context.Service<Mailer, { readonly send: (to: string) => Effect.Effect<void> }>()("test/Mailer") {}

class Mail extends Worker.Service<Mail>()("Mail", {
  args: { to: Schema.Struct({ name: Schema.String, host: Schema.String }), at: Schema.DateTimeUtc },
  result: Schema.Int
}) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const mailer = yield* Mailer
      return ({ args }) => Effect.as(mailer.send(args.to.name), 1)
    })
  )
}

class Follow extends Worker.Service<Follow>()("Follow", { args: {} }) {
  static readonly layer = this.toLayer(Effect.succeed(() => Follow.enqueue({})))
}

declare const at: DateTime.Utc
declare const options: Runner.DrainOptions
type Failure<X> = X extends Effect.Effect<unknown, infer E, unknown> ? E : never

// Accepted: parts of args, predicates, and what handlers answer, by type.
TestJobs.assertEnqueued(Mail, { args: { to: { name: "ada" } } }) satisfies Effect.Effect<
  TestJobs.Enqueued<{ readonly to: { readonly name: string; readonly host: string }; readonly at: DateTime.Utc }>,
  TestJobs.AssertionFailed | SqlError,
  Jobs.Jobs
>
TestJobs.refuteEnqueued(Mail, { args: { to: { host: (host) => host.endsWith(".org") }, at: (found) => found === at } })
TestJobs.perform(Mail, { to: { name: "ada", host: "example.org" }, at }) satisfies Effect.Effect<
  Runner.Outcome<number>,
  NewJob.InvalidJob | Runner.InvalidResult,
  Mail
>
TestJobs.advance("1 day") satisfies Effect.Effect<
  Runner.Drained,
  Runner.Endless | SqlError,
  TestJobs.Timeline | Pglite.Pglite
>

// A drain may fail with a job's failure only where it was told to.
TestJobs.drain({ withRecursion: true }) satisfies Effect.Effect<
  Runner.Drained,
  Runner.Endless | SqlError,
  Runner.Runner
>
new Runner.JobFailed({} as never) satisfies Failure<ReturnType<typeof unsafe>>
new Runner.JobFailed({} as never) satisfies Failure<ReturnType<typeof unknown>>
const unsafe = () => TestJobs.drain({ withSafety: false })
const unknown = () => TestJobs.drain(options)

// What workers need is needed, but for what the layer provides: the service to enqueue.
TestJobs.layerManual({ workers: [Mail.layer, Follow.layer] }) satisfies Layer.Layer<
  Jobs.Jobs | Runner.Runner | TestJobs.Timeline | Mail | Follow,
  Runner.StartFailure,
  SqlClient | Mailer
>
TestJobs.layerInline({ workers: [Follow.layer] }) satisfies Layer.Layer<
  Jobs.Jobs | Runner.Runner | Follow,
  Runner.StartFailure,
  SqlClient
>

// @expect-error-message: 'nmae' does not exist in type
TestJobs.assertEnqueued(Mail, { args: { to: { nmae: "ada" } } })
// @expect-error-message: Type 'number' is not assignable to type
TestJobs.assertEnqueued(Mail, { args: { to: { name: 1 } } })
// @expect-error-message: Type '"sleeping"' is not assignable to type
TestJobs.refuteEnqueued(Mail, { state: "sleeping" })
// @expect-error-message: Property 'host' is missing in type '{ name: string; }'
TestJobs.perform(Mail, { to: { name: "ada" }, at })
// @expect-error-message: 'recursive' does not exist in type
TestJobs.drain({ recursive: true })
