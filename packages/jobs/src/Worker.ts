/**
 * A worker: what a kind of job needs, how it is run, and how it is enqueued. Oban's worker, as a class.
 *
 * The class names the args by a Schema, and the defaults of its jobs. Its `toLayer` takes the handler as an effect, so
 * what the handler needs is injected; its `enqueue` needs no handler, so a process may enqueue what others run.
 *
 * ```ts
 * import { Worker } from "@coppice/jobs"
 * import { Context, Effect, Schema } from "effect"
 *
 * class Mailer extends Context.Service<Mailer, {
 *   readonly send: (to: string) => Effect.Effect<void>
 * }>()("app/Mailer") {}
 *
 * export class WelcomeWorker extends Worker.Service<WelcomeWorker>()("WelcomeWorker", {
 *   queue: "mail",
 *   maxAttempts: 5,
 *   args: { to: Schema.String },
 *   unique: { period: "1 hour", keys: ["to"] }
 * }) {
 *   static readonly layer = this.toLayer(Effect.gen(function*() {
 *     const mailer = yield* Mailer
 *     return ({ args }) => mailer.send(args.to) // success completes; a failure or defect is tried again
 *   }))
 * }
 *
 * export const welcome = WelcomeWorker.enqueue({ to: "ada@example.org" }, { scheduleIn: "5 minutes" })
 * ```
 */
import {
  Cause,
  Context,
  Duration,
  Effect,
  Exit,
  Layer,
  Random,
  References,
  Schema,
  SchemaAST,
  type Scope,
  Tracer
} from "effect"
import type { SqlError } from "effect/sql/SqlError"
import { textOf } from "./internal/failureText.ts"
import { Jobs } from "./internal/jobsService.ts"
import { findUnstorable } from "./internal/json.ts"
import type { Job } from "./Job.ts"
import { prefix } from "./internal/workers.ts"
import {
  type Enqueued,
  InvalidJob,
  type NewJob,
  type Options,
  type Rejected,
  type Unique,
  type UniqueBusy
} from "./NewJob.ts"

// --------------------------------------------------------------------------------------------------------------------
// definition
// --------------------------------------------------------------------------------------------------------------------

/** A schema that needs no services. */
export type AnySchema = Schema.Codec<unknown, unknown>

/** The args of a worker: the fields of a struct, or any schema. */
export type ArgsInput = Schema.Struct.Fields | Schema.Top

/** The type of the args. */
export type ArgsOf<A> = A extends Schema.Top
  ? A["Type"]
  : A extends Schema.Struct.Fields
    ? Schema.Struct.Type<A>
    : never

/** Fields that args can be unique by; none where they are no object. */
export type KeyOf<Args> = unknown extends Args
  ? string
  : Args extends ReadonlyArray<unknown>
    ? never
    : Args extends object
      ? keyof Args & string
      : never

/** Why an attempt did not succeed, as `backoff` sees it. */
export interface Failure {
  /** The attempt that failed, from 1. */
  readonly attempt: number
  readonly maxAttempts: number
  /** The typed error, or the defect. */
  readonly error: unknown
  readonly cause: Cause.Cause<unknown>
}

/** Decides how long to wait until the next attempt. */
export type Backoff = (failure: Failure) => Duration.Input | Effect.Effect<Duration.Input>

/** What a worker says of its jobs. */
export interface Definition<Args extends ArgsInput, Result extends Schema.Top> {
  /** How args look. They are stored as the schema's JSON, and decoded when the job is claimed. */
  readonly args: Args
  /**
   * Counts changes of the args that older code does not understand; defaults to 1. A node leaves jobs of a version above
   * its own to others, without using an attempt.
   */
  readonly argsVersion?: number | undefined
  /** With it the handler's answer is recorded with the finished job, unless it is more than 10 million characters of JSON. */
  readonly result?: Result | undefined
  /** Defaults to `"default"`. */
  readonly queue?: string | undefined
  /** Defaults to 20. */
  readonly maxAttempts?: number | undefined
  /** 0 (first) to 9 (last); defaults to 0. */
  readonly priority?: number | undefined
  readonly tags?: ReadonlyArray<string> | undefined
  readonly meta?: Readonly<Record<string, Schema.Json>> | undefined
  /** Keeps a second job like the first out; see `NewJob.Unique`. Defaults to no uniqueness. */
  readonly unique?: Unique<KeyOf<ArgsOf<Args>>> | undefined
  /** How long an attempt may take until its handler is interrupted and it counts as failed. Defaults to no limit. */
  readonly timeout?: Duration.Input | undefined
  /** How long an attempt may take until a `slow` event tells of it. Defaults to one minute. */
  readonly slowAfter?: Duration.Input | undefined
  /**
   * How long to wait after a failed attempt; an effect where chance is to play a part. Defaults to Oban's 15 s + 2^attempt
   * s, and up to a tenth more.
   */
  readonly backoff?: Backoff | undefined
  /** Whose turn this job is in a queue with limits per partition, such as a tenant. Defaults to no partition. */
  readonly partition?: ((args: ArgsOf<Args>) => string) | undefined
}

/** Runs one job. */
export type Handler<Args, Result, E, R> = (job: Job<Args>) => Effect.Effect<Result, E, R>

type ResultOf<Result extends Schema.Top> = [Result] extends [never] ? unknown : Result["Type"]

/** What a worker's layer provides: the worker, ready to run its jobs. */
export interface Running {
  readonly spec: Spec
  readonly run: Handler<unknown, unknown, unknown, never>
  /** The handler alone, and the services with which `run` provides it. */
  readonly handler: Handler<unknown, unknown, unknown, unknown>
  readonly services: Context.Context<unknown>
}

/** A definition with its defaults, and codecs in the place of schemas. */
export interface Spec {
  readonly name: string
  readonly argsVersion: number
  readonly queue: string
  readonly maxAttempts: number
  readonly priority: number
  readonly tags: ReadonlyArray<string>
  readonly meta: Readonly<Record<string, Schema.Json>>
  readonly unique: Unique<string> | undefined
  /** The fields of encoded args; undefined where they may be any. */
  readonly argsFields: ReadonlySet<string> | undefined
  readonly timeout: Duration.Duration | undefined
  readonly slowAfter: Duration.Duration
  readonly backoff: Backoff | undefined
  readonly decodeArgs: (json: unknown) => Exit.Exit<unknown, Schema.SchemaError>
  readonly encodeArgs: (args: unknown) => Exit.Exit<unknown, Schema.SchemaError>
  /** Absent where the answer is not recorded. */
  readonly encodeResult: ((result: unknown) => Exit.Exit<unknown, Schema.SchemaError>) | undefined
  readonly partition: ((args: unknown) => string) | undefined
}

/** The class of a worker: its key, its layer, and the way to enqueue its jobs. */
export interface WorkerClass<Self, Name extends string, Args, Result> extends Context.ServiceClass<
  Self,
  `@coppice/jobs/Worker/${Name}`,
  Running
> {
  readonly spec: Spec
  /** A job, to be given to `Jobs.enqueue` or `Jobs.enqueueMany`. */
  readonly job: (args: Args, options?: Options<KeyOf<Args>>) => NewJob
  /** Inserts a job: in the transaction that is open, if there is one, and visible to nobody before that commits. */
  readonly enqueue: (
    args: Args,
    options?: Options<KeyOf<Args>>
  ) => Effect.Effect<Enqueued, InvalidJob | UniqueBusy | SqlError, Jobs>
  /** Inserts many jobs in one statement. The answers are in the order of the args; what is invalid is `Rejected` alone. */
  readonly enqueueMany: (
    args: ReadonlyArray<Args>,
    options?: Options<KeyOf<Args>>
  ) => Effect.Effect<ReadonlyArray<Enqueued | Rejected>, SqlError, Jobs>
  /** The worker with its handler. What the handler or its making needs is what the layer needs. */
  readonly toLayer: <E, R, HE, HR>(
    make: Effect.Effect<Handler<Args, Result, HE, HR>, E, R>
  ) => Layer.Layer<Self, E, Exclude<R, Scope.Scope> | HR>
}

// --------------------------------------------------------------------------------------------------------------------
// constructor
// --------------------------------------------------------------------------------------------------------------------

/** Makes the class of a worker. The name is what the database has of it: rename it, and jobs that wait are not found. */
export const Service =
  <Self>() =>
  <const Name extends string, const Args extends ArgsInput, Result extends Schema.Top = never>(
    name: Name,
    definition: Definition<Args, Result>
  ): WorkerClass<Self, Name, ArgsOf<Args>, ResultOf<Result>> => {
    const Tag = Context.Service<Self, Running>()(keyOf(name))
    // From here on args are opaque: what the types promise of them, their schema checks.
    const spec = toSpec(name, definition as unknown as Definition<ArgsInput, Schema.Top>)
    const job = (args: unknown, options: Options<string> = {}) => newJob(spec, args, options)
    const statics = {
      spec,
      job,
      enqueue: (args: unknown, options?: Options<string>) =>
        Effect.flatMap(Jobs, (jobs) => jobs.enqueue(job(args, options))),
      enqueueMany: (all: ReadonlyArray<unknown>, options?: Options<string>) =>
        Effect.flatMap(Jobs, (jobs) => jobs.enqueueMany(all.map((args) => job(args, options)))),
      toLayer: (make: Effect.Effect<Handler<unknown, unknown, unknown, unknown>, unknown, unknown>) =>
        Layer.effect(
          Tag,
          Effect.gen(function* () {
            const handler = yield* make
            const services = withoutPlace(yield* Effect.context<unknown>())
            return { spec, handler, services, run: (job) => Effect.provideContext(handler(job), services) }
          })
        )
    }
    // The members just added are those that the type lists.
    return Object.assign(Tag, statics) as never
  }

// --------------------------------------------------------------------------------------------------------------------
// backoff
// --------------------------------------------------------------------------------------------------------------------

/**
 * Oban's default: 15 s + 2^attempt s, and up to a tenth more. With more than 20 attempts the exponent is scaled down to
 * 20.
 */
export const defaultBackoff = (attempt: number, maxAttempts: number): Effect.Effect<Duration.Duration> =>
  Effect.map(Random.next, (random) => {
    const exponent = maxAttempts <= 20 ? attempt : Math.round((attempt / maxAttempts) * 20)
    const seconds = 15 + 2 ** exponent
    return Duration.seconds(seconds + Math.trunc(random * 0.1 * seconds))
  })

// --------------------------------------------------------------------------------------------------------------------

/** How many classes have been made of each name. */
const made = new Map<string, number>()

/** A key of its own for each class: two of one name must not stand in for each other unseen. */
const keyOf = <Name extends string>(name: Name): `@coppice/jobs/Worker/${Name}` => {
  const count = (made.get(name) ?? 0) + 1
  made.set(name, count)
  const first = `${prefix}/${name}` as const
  // Types cannot tell the second class of a name from the first.
  return count === 1 ? first : (`${prefix} ${count}/${name}` as typeof first)
}

/** Services without what says where a fiber is: a job's span and log annotations are its own, not those of the start. */
const withoutPlace = Context.omit(Tracer.ParentSpan, References.CurrentLogAnnotations, References.CurrentLogSpans)

const toSpec = (name: string, definition: Definition<ArgsInput, Schema.Top>): Spec => {
  // A schema that needs services to encode or decode is not offered by the types of `Service`.
  const args = codec(Schema.isSchema(definition.args) ? definition.args : Schema.Struct(definition.args))
  const result = definition.result === undefined ? undefined : codec(definition.result)
  return {
    name,
    argsVersion: definition.argsVersion ?? 1,
    queue: definition.queue ?? "default",
    maxAttempts: definition.maxAttempts ?? 20,
    priority: definition.priority ?? 0,
    tags: definition.tags ?? [],
    meta: definition.meta ?? {},
    unique: definition.unique,
    argsFields: fieldsOf(args.ast),
    timeout: definition.timeout === undefined ? undefined : Duration.fromInputUnsafe(definition.timeout),
    slowAfter: Duration.fromInputUnsafe(definition.slowAfter ?? "1 minute"),
    backoff: definition.backoff,
    decodeArgs: Schema.decodeUnknownExit(args),
    encodeArgs: Schema.encodeUnknownExit(args),
    encodeResult: result === undefined ? undefined : Schema.encodeUnknownExit(result),
    partition: definition.partition
  }
}

const codec = (schema: Schema.Top) => Schema.toCodecJson(schema as AnySchema)

/** The names of the fields that encoded values have; undefined where they may have any. */
const fieldsOf = (ast: SchemaAST.AST): ReadonlySet<string> | undefined => {
  const encoded = SchemaAST.toEncoded(ast)
  if (encoded._tag === "Union") {
    const members = encoded.types.map(fieldsOf)
    return members.includes(undefined) ? undefined : new Set(members.flatMap((names) => [...(names ?? [])]))
  }
  return encoded._tag === "Objects" && encoded.indexSignatures.length === 0
    ? new Set(encoded.propertySignatures.map(({ name }) => String(name)))
    : undefined
}

const newJob = (spec: Spec, args: unknown, options: Options<string>): NewJob => {
  const encoded = spec.encodeArgs(args)
  const unique = options.unique === false ? undefined : (options.unique ?? spec.unique)
  const stored = checked(spec, encoded, unique)
  const partition = stored._tag === "Valid" ? (options.partition ?? partitionOf(spec, args)) : undefined
  const misplaced = partition instanceof InvalidJob
  return {
    "~coppice/jobs/NewJob": true,
    worker: spec.name,
    argsVersion: spec.argsVersion,
    args: misplaced ? { _tag: "Invalid", error: partition } : stored,
    queue: options.queue ?? spec.queue,
    priority: options.priority ?? spec.priority,
    maxAttempts: options.maxAttempts ?? spec.maxAttempts,
    tags: options.tags === undefined ? spec.tags : [...new Set([...spec.tags, ...options.tags])],
    meta: options.meta === undefined ? spec.meta : { ...spec.meta, ...options.meta },
    partition: misplaced ? undefined : partition,
    unique,
    scheduleAt: options.scheduleAt,
    scheduleIn: options.scheduleIn
  }
}

/** Whose turn it is. A function that throws makes its own job invalid, and not those that are enqueued together with it. */
const partitionOf = (spec: Spec, args: unknown): string | undefined | InvalidJob => {
  try {
    return spec.partition?.(args)
  } catch (defect) {
    const problem = `of its args cannot be told: ${textOf(Cause.die(defect), 1_000)}`
    return new InvalidJob({ worker: spec.name, path: "partition", problem })
  }
}

const checked = (
  spec: Spec,
  encoded: Exit.Exit<unknown, Schema.SchemaError>,
  unique: Unique<string> | undefined
): NewJob["args"] => {
  const invalid = (path: string, problem: string): NewJob["args"] => ({
    _tag: "Invalid",
    error: new InvalidJob({ worker: spec.name, path, problem })
  })
  if (Exit.isFailure(encoded)) {
    const [error] = encoded.cause.reasons
    if (error?._tag === "Fail") return invalid("args", `do not fit their schema: ${error.error.message}`)
    return invalid("args", `could not be encoded: ${Cause.pretty(encoded.cause)}`)
  }
  const found = findUnstorable(encoded.value, "args")
  if (found !== undefined) return invalid(found.path, found.problem)
  // A field that no args have would make all of them the same.
  const stranger = spec.argsFields === undefined ? undefined : unique?.keys?.find((key) => !spec.argsFields?.has(key))
  if (stranger !== undefined) {
    const names = [...(spec.argsFields ?? [])].join(", ")
    return invalid("options.unique.keys", `name ${stranger}, which encoded args do not have: they have ${names}`)
  }
  // What `toCodecJson` encodes to is JSON.
  return { _tag: "Valid", value: encoded.value as Schema.Json }
}
