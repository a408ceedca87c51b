/** Tracking for as long as a scope is open, whatever becomes of the process that tells of it. */
import { Effect, Exit, type Schema, Scope } from "effect"
import { AlreadyTracked, InvalidMeta, NotTracked, problemOf } from "./errors.ts"
import { Registration } from "./registration.ts"
import type { Service } from "./service.ts"
import type { Tuple } from "./wire.ts"

/** What is tracked, for who tracks it. */
export interface Tracked<Meta> {
  /** The present ref. */
  readonly ref: string
  /**
   * Replaces the meta: one diff with the old entry in its leaves and the new one, which has another ref, in its joins. Fails
   * with `NotTracked` when it was untracked, and with `InvalidMeta` when the meta does not fit its schema.
   */
  readonly update: (meta: Meta | ((meta: Meta) => Meta)) => Effect.Effect<void, InvalidMeta | NotTracked>
  /** Leaves before the scope closes. Nothing happens where it has left. */
  readonly untrack: Effect.Effect<void>
}

export interface Claims {
  readonly presence: string
  readonly encodeMeta: (meta: unknown) => Exit.Exit<unknown, Schema.SchemaError>
  /** What each scope tracks, for each way in which the service is reached. */
  readonly claimed: WeakMap<object, WeakMap<Scope.Scope, Set<string>>>
}

export const track = (
  claims: Claims,
  handle: Service,
  topic: string,
  key: string,
  meta: unknown
): Effect.Effect<Tracked<unknown>, AlreadyTracked | InvalidMeta, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const json = yield* encoded(claims, topic, key, meta)
      const scope = yield* Effect.scope
      const mine = claimsOf(claims, handle, scope)
      const claim = JSON.stringify([topic, key])
      if (mine.has(claim)) return yield* new AlreadyTracked({ presence: claims.presence, topic, key })
      mine.add(claim)
      const registration = new Registration(handle, topic, key, meta, json)
      // A scope of its own: what is untracked leaves nothing in the other.
      const own = yield* Scope.fork(scope)
      yield* Scope.addFinalizer(
        own,
        Effect.sync(() => {
          mine.delete(claim)
          registration.end()
        })
      )
      const entering = Effect.suspend(() => (registration.ended ? Effect.void : handle.enter(handle, registration)))
      yield* Effect.onExit(restore(entering), (exit) => (Exit.isSuccess(exit) ? Effect.void : Scope.close(own, exit)))
      return {
        get ref() {
          return registration.ref
        },
        update: (next) =>
          Effect.gen(function* () {
            if (registration.ended) return yield* new NotTracked({ presence: claims.presence, topic, key })
            const meta: unknown = typeof next === "function" ? next(registration.meta) : next
            registration.renew(meta, yield* encoded(claims, topic, key, meta))
          }),
        untrack: Scope.close(own, Exit.void)
      } satisfies Tracked<unknown>
    })
  )

const encoded = (
  { encodeMeta, presence }: Claims,
  topic: string,
  key: string,
  meta: unknown
): Effect.Effect<Tuple[4], InvalidMeta> => {
  const json = encodeMeta(meta)
  // A codec for JSON makes JSON.
  if (Exit.isSuccess(json)) return Effect.succeed(json.value as Tuple[4])
  return Effect.fail(new InvalidMeta({ presence, topic, key, problem: problemOf(json.cause) }))
}

const claimsOf = ({ claimed }: Claims, handle: object, scope: Scope.Scope): Set<string> => {
  let scopes = claimed.get(handle)
  if (scopes === undefined) claimed.set(handle, (scopes = new WeakMap()))
  let mine = scopes.get(scope)
  if (mine === undefined) scopes.set(scope, (mine = new Set()))
  return mine
}
