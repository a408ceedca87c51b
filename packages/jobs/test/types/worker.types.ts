/** What can be enqueued, what makes it unique, and the words with which the compiler refuses the rest. */
import { type Jobs, type NewJob, Worker } from "@coppice/jobs"
import { Context, type DateTime, Effect, type Layer, Schema } from "effect"
import type { SqlError } from "effect/sql/SqlError"

class Mailer extends Context.Service<Mailer, { readonly send: (to: string) => Effect.Effect<void> }>()("test/Mailer") {}

class Mail extends Worker.Service<Mail>()("Mail", {
  queue: "mail",
  args: { to: Schema.String, at: Schema.DateTimeUtc, cc: Schema.optionalKey(Schema.String) },
  unique: { keys: ["to", "cc"], period: "1 hour", replace: { scheduled: ["scheduledAt"] } },
  partition: ({ to }) => to
}) {
  static readonly layer = this.toLayer(
    Effect.gen(function* () {
      const mailer = yield* Mailer
      return ({ args }) => mailer.send(args.to)
    })
  )
}
declare const at: DateTime.Utc

// Accepted: args as they are in the program, and options.
Mail.enqueue({ to: "ada", at }) satisfies Effect.Effect<
  NewJob.Enqueued,
  NewJob.InvalidJob | NewJob.UniqueBusy | SqlError,
  Jobs.Jobs
>
Mail.enqueueMany([{ to: "ada", at, cc: "grace" }], {
  scheduleAt: at,
  unique: { keys: ["cc"] }
}) satisfies Effect.Effect<ReadonlyArray<NewJob.Enqueued | NewJob.Rejected>, SqlError, Jobs.Jobs>
Mail.job({ to: "ada", at }, { scheduleIn: "5 minutes", unique: false }) satisfies NewJob.NewJob
// Options that name no field of args are for every worker.
declare const shared: NewJob.Options
Mail.enqueue({ to: "ada", at }, shared)
// What the handler needs, the layer needs.
Mail.layer satisfies Layer.Layer<Mail, never, Mailer>

// Args

// @expect-error-message: Type 'number' is not assignable to type 'string'
Mail.enqueue({ to: 1, at })
// @expect-error-message: Property 'at' is missing in type '{ to: string; }'
Mail.enqueue({ to: "ada" })
// @expect-error-message: Object literal may only specify known properties, and 'form' does not exist in type
Mail.enqueue({ to: "ada", at, form: "html" })
// @expect-error-message: Type 'number' is not assignable to type 'string'
Mail.enqueueMany([
  { to: "ada", at },
  { to: 2, at }
])
// @expect-error-message: Expected 1-2 arguments, but got 0
Mail.enqueue()
// @expect-error-message: Type 'StringConstructor' is missing the following properties from type 'Constraint'
Worker.Service<unknown>()("Wrong", { args: { to: String } })

// Options

// @expect-error-message: 'priorty' does not exist in type 'Options<"at" | "cc" | "to">'. Did you mean to write 'priority'?
Mail.enqueue({ to: "ada", at }, { priorty: 1 })
// @expect-error-message: Type '"5 minuts"' is not assignable to type
Mail.enqueue({ to: "ada", at }, { scheduleIn: "5 minuts" })
// @expect-error-message: Did you mean to write 'queue'?
Worker.Service<unknown>()("Wrong", { args: {}, queu: "mail" })

// Unique keys are fields of the args.

// @expect-error-message: Type '"too"' is not assignable to type '"to"'
Worker.Service<unknown>()("Wrong", { args: { to: Schema.String }, unique: { keys: ["too"] } })
// @expect-error-message: Type '"form"' is not assignable to type '"at" | "cc" | "to"'
Mail.enqueue({ to: "ada", at }, { unique: { keys: ["form"] } })
// @expect-error-message: Type 'string' is not assignable to type 'never'
Worker.Service<unknown>()("Wrong", { args: Schema.String, unique: { keys: ["length"] } })
// @expect-error-message: Type 'string' is not assignable to type 'never'
Worker.Service<unknown>()("Wrong", { args: Schema.Array(Schema.String), unique: { keys: ["0"] } })
// @expect-error-message: 'state' does not exist in type 'Unique<"to">'. Did you mean to write 'states'?
Worker.Service<unknown>()("Wrong", { args: { to: Schema.String }, unique: { state: "all" } })
// @expect-error-message: Type '"finished"' is not assignable to type 'UniqueStates | undefined'
Worker.Service<unknown>()("Wrong", { args: { to: Schema.String }, unique: { states: "finished" } })
Worker.Service<unknown>()("Member", {
  args: Schema.Union([Schema.Struct({ user: Schema.Int }), Schema.Struct({ group: Schema.Int })]),
  unique: { keys: ["user", "group"] }
})
Worker.Service<unknown>()("Open", { args: Schema.Record(Schema.String, Schema.Int), unique: { keys: ["any"] } })

// Handlers

class Count extends Worker.Service<Count>()("Count", { args: { of: Schema.String }, result: Schema.Int }) {}
Count.toLayer(Effect.succeed(({ args }) => Effect.succeed(args.of.length))) satisfies Layer.Layer<Count>
// @expect-error-message: Type 'string' is not assignable to type 'number'
Count.toLayer(Effect.succeed(() => Effect.succeed("1")))
// @expect-error-message: Property 'off' does not exist on type
Count.toLayer(Effect.succeed(({ args }) => Effect.succeed(args.off)))
