/**
 * Layers for domain services: stateless code over the database.
 *
 * The state of a domain entity lives in a row, never in a process, so a domain service needs no fiber and no resource
 * of its own. `Domain.layer` makes that a rule: a `make` that requires `Scope` (it would own a fiber, a connection, a
 * finalizer) or `Process` (it would be a process itself) does not compile, and the message says what to do instead.
 *
 * `Domain.Entity` marks the models whose state this is about.
 *
 * What no type can see stays with the reviewer: a `Ref` or a `Map` closed over by the methods, `Effect.forkDetach`, a
 * scope made by hand. They hold state that a restart forgets and that a second node does not share.
 */
import { Cause, Context, Effect, Fiber, Layer, Scope, type Stream } from "effect"

/**
 * `unknown` when a `make` with requirements `Requirements` builds a stateless service of shape `Shape`, otherwise the
 * sentence that the compiler shows.
 *
 * Ask for it in a function that wraps `Domain.layer` and is generic in the requirements:
 * `make: Effect.Effect<Shape, E, R> & Domain.Stateless<R, Shape>`.
 */
export type Stateless<Requirements, Shape> = [MakeRefusal<Requirements>] extends [never]
  ? [MethodRefusal<Shape>] extends [never]
    ? unknown
    : MethodRefusal<Shape>
  : MakeRefusal<Requirements>

/** What tells the type of an entity from that of any other object. Nothing of it exists at run time. */
export interface EntityMark {
  readonly "~coppice/domain/Entity"?: true
}

/**
 * Marks a model as an entity, whose state lives in a row: the state of a `GenServer` that holds one does not compile.
 *
 * The class is returned as it is. Without the mark an instance of a model has the type of any other object with the
 * same fields, and the compiler cannot tell that it is one.
 *
 * ```ts
 * import { Domain } from "@coppice/domain"
 * import { Schema } from "effect"
 * import { Model } from "effect/schema"
 *
 * class Trail extends Domain.Entity(Model.Class<Trail>("app/Trail")({
 *   id: Model.GeneratedByDb(Schema.Int),
 *   name: Schema.String
 * })) {}
 *
 * new Trail({ id: 1, name: "Ridge" }).name // => "Ridge"
 * ```
 */
export const Entity = <Class extends abstract new (...args: never) => object>(model: Class): Class & Marking =>
  // The mark is a type alone.
  model as Class & Marking

// oxlint-disable-next-line typescript/no-explicit-any -- TypeScript only intersects constructors that take Array<any>
type Marking = new (...args: Array<any>) => EntityMark

/**
 * Builds the layer of a stateless domain service.
 *
 * The requirements of `make` become those of the layer, so the service is wired like any other. Refused by the
 * compiler: a `make` that requires `Scope`, `Process`, `any` or `unknown`, and a service with a method that requires
 * `Scope` or `Process` of its caller. A `make` that came past the types by a cast finds no `Scope` when it runs, and
 * the layer ends with a defect that says the same. What `make` forks as a child is interrupted when `make` is done.
 *
 * ```ts
 * import { Domain } from "@coppice/domain"
 * import { Context, Effect } from "effect"
 * import { SqlClient, type SqlError } from "effect/sql"
 *
 * class Trails extends Context.Service<Trails, {
 *   readonly count: Effect.Effect<number, SqlError.SqlError>
 * }>()("app/Trails") {
 *   static readonly layer = Domain.layer(Trails, Effect.gen(function*() {
 *     const sql = yield* SqlClient.SqlClient
 *     return { count: Effect.map(sql`select 1 from trails`, (rows) => rows.length) }
 *   }))
 * }
 * ```
 */
export const layer = <Identifier, Shape, E, R>(
  tag: Context.Key<Identifier, Shape>,
  make: Effect.Effect<NoInfer<Shape>, E, R> & Stateless<R, Shape>
): Layer.Layer<Identifier, E, Exclude<R, Scope.Scope>> => Layer.effect(tag, withoutOwner(tag.key, make))

type Rule = "A domain service holds no state"
type Advice = "Move it to a process under a Supervisor."

type MakeRefusal<R> =
  IsAny<R> extends true
    ? `${Rule}: its \`make\` requires \`any\`, so nothing can be checked. Give its requirements a type.`
    : unknown extends R
      ? `${Rule}: its \`make\` requires \`unknown\`, so nothing can be checked. Give its requirements a type.`
      : [Extract<R, Scope.Scope>] extends [never]
        ? [Extract<R, ProcessIdentifier>] extends [never]
          ? never
          : `${Rule}: its \`make\` must not require Process (a life of its own). ${Advice}`
        : `${Rule}: its \`make\` must not require Scope (a resource or fiber of its own). ${Advice}`

type MethodRefusal<Shape> = {
  [Name in keyof Shape & string]: MethodMessage<Name, Requirements<Shape[Name]>>
}[keyof Shape & string]

type MethodMessage<Name extends string, R> =
  IsAny<R> extends true
    ? never
    : [Extract<R, Scope.Scope>] extends [never]
      ? [Extract<R, ProcessIdentifier>] extends [never]
        ? never
        : `${Rule}: its method \`${Name}\` must not require Process of its caller. ${Advice}`
      : `${Rule}: its method \`${Name}\` must not require Scope of its caller. Return a Stream, or close the resource inside the method with Effect.scoped.`

// What a member asks of whoever uses it: an effect, a stream, or a function (curried or not) that returns one.
type Requirements<Member> =
  IsAny<Member> extends true
    ? never
    : Member extends (...args: never) => infer Out
      ? Out extends (...args: never) => infer Curried
        ? EffectRequirements<Curried>
        : EffectRequirements<Out>
      : EffectRequirements<Member>

type EffectRequirements<A> =
  IsAny<A> extends true
    ? never
    : A extends Effect.Effect<infer _A, infer _E, infer R>
      ? R
      : A extends Stream.Stream<infer _A, infer _E, infer R>
        ? R
        : never

// The service of @coppice/supervision, known by its key: this package does not import that one.
interface ProcessIdentifier {
  readonly key: "@coppice/supervision/Process"
}

type IsAny<A> = 0 extends 1 & A ? true : false

const Process = Context.Service<ProcessIdentifier>("@coppice/supervision/Process")

// Layers are built in a scope and, inside a tree, in a process. Taking both away makes the rule hold for a `make` whose
// requirements were lost in a cast. It runs in a fiber that ends with it, because the fiber that builds the layers of an
// application lives as long as the application, and so would a child that `make` forked from it.
const withoutOwner = <A, E, R>(key: string, make: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  make.pipe(
    Effect.updateContext(
      // `R` was checked to hold neither key, so what is left still provides all of it.
      (context: Context.Context<R>) => Context.omit(Scope.Scope, Process)(context) as Context.Context<R>
    ),
    Effect.forkScoped,
    Effect.flatMap(Fiber.join),
    Effect.scoped,
    Effect.catchCause((cause) => Effect.failCause(Cause.fromReasons(cause.reasons.map(explain(key)))))
  )

const explain =
  (key: string) =>
  <E>(reason: Cause.Reason<E>): Cause.Reason<E> =>
    Cause.isDieReason(reason) && reason.defect instanceof Error && isMissingOwner(reason.defect)
      ? Cause.makeDieReason(
          new Error(
            `${key}: a domain service holds no state, so there is no Scope and no Process for its make. `
              + "Move what needs one to a process under a Supervisor.",
            { cause: reason.defect }
          )
        )
      : reason

const isMissingOwner = (defect: Error): boolean =>
  [Scope.Scope.key, Process.key].some((key) => defect.message === `Service not found: ${key}`)
