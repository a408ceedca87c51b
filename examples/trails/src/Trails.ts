/**
 * Trails: started, renamed, paused and resumed by their owners.
 *
 * Holds no state. Every decision is made on the row, in the statement or transaction that writes; every change is told
 * to all nodes after it has committed (`TrailEvents`).
 */
import { Changeset, Domain, OptimisticLock, Transition, type ValidationError } from "@coppice/domain"
import { Context, Effect, Option } from "effect"
import { SqlClient, SqlModel, SqlSchema } from "effect/sql"
import { NewTrail, RenameTrail, Trail, TrailId, TrailNotFound, TrailStatus, TrailSummary } from "./Trail.ts"
import { teller } from "./TrailEvents.ts"
import { UserId } from "./User.ts"

/** How many trails `list` gives at most: the newest. */
const listLimit = 100

export class Trails extends Context.Service<
  Trails,
  {
    readonly list: (owner: UserId) => Effect.Effect<ReadonlyArray<TrailSummary>>
    readonly find: (owner: UserId, id: TrailId) => Effect.Effect<TrailSummary, TrailNotFound>
    /** Whoever owns it. */
    readonly get: (id: TrailId) => Effect.Effect<Option.Option<TrailSummary>>
    readonly create: (owner: UserId, input: unknown) => Effect.Effect<Trail, ValidationError.ValidationError>
    /** The input carries the version that the owner saw: a trail that was changed since then is `Stale`. */
    readonly rename: (
      owner: UserId,
      id: TrailId,
      input: unknown
    ) => Effect.Effect<Trail, ValidationError.ValidationError | TrailNotFound | OptimisticLock.Stale>
    /** Once it has returned, no capture is accepted until the trail is resumed. */
    readonly pause: (owner: UserId, id: TrailId) => Effect.Effect<Trail, TrailNotFound | Transition.InvalidTransition>
    readonly resume: (owner: UserId, id: TrailId) => Effect.Effect<Trail, TrailNotFound | Transition.InvalidTransition>
  }
>()("trails/Trails") {
  static readonly layer = Domain.layer(
    Trails,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const tell = yield* teller
      const table = { tableName: "trails", spanPrefix: "Trails", idColumn: "id" } as const
      const trails = yield* SqlModel.makeRepository(Trail, table)
      const update = yield* OptimisticLock.makeUpdate(Trail, { ...table, versionColumn: "version" })
      const step = yield* Transition.makeUpdate(TrailStatus, Trail, {
        ...table,
        statusColumn: "status",
        versionColumn: "version"
      })

      const summary = sql`trails.*, (select count(*)::int from pages where pages.trail_id = trails.id) as pages`
      const listOwned = SqlSchema.findAll({
        Request: UserId,
        Result: TrailSummary,
        execute: (owner) => sql`
          select ${summary} from trails where owner_id = ${owner} order by created_at desc, id desc limit ${listLimit}`
      })
      const getSummary = SqlSchema.findOneOption({
        Request: TrailId,
        Result: TrailSummary,
        execute: (id) => sql`select ${summary} from trails where id = ${id}`
      })

      const find = Effect.fn("Trails.find")(function* (owner: UserId, id: TrailId) {
        const found = yield* Effect.orDie(getSummary(id))
        return yield* ownedBy(owner, id, found)
      })

      const changed = (trail: Trail) =>
        Effect.as(tell(trail.id, { _tag: "TrailChanged", version: trail.version }), trail)

      // Nobody gives a trail away, so its owner may be looked at before the row is locked.
      const move = (to: TrailStatus) =>
        Effect.fn(`Trails.${to}`)(function* (owner: UserId, id: TrailId) {
          yield* find(owner, id)
          return yield* step(id, to).pipe(
            Effect.catchTag("RowNotFound", () => new TrailNotFound({ id })),
            Effect.catchTags({ SqlError: Effect.die, SchemaError: Effect.die }),
            Effect.flatMap(changed)
          )
        })

      return {
        list: Effect.fn("Trails.list")((owner: UserId) => Effect.orDie(listOwned(owner))),
        find,
        get: Effect.fn("Trails.get")((id: TrailId) => Effect.orDie(getSummary(id))),
        create: Effect.fn("Trails.create")(function* (owner: UserId, input: unknown) {
          const { name } = yield* Changeset.cast(NewTrail, input)
          const row = yield* Effect.orDie(Trail.insert.makeEffect({ ownerId: owner, name }))
          return yield* Effect.flatMap(trails.insert(row), changed)
        }, constraints),
        rename: Effect.fn("Trails.rename")(function* (owner: UserId, id: TrailId, input: unknown) {
          const { name, version } = yield* Changeset.cast(RenameTrail, input)
          yield* find(owner, id)
          return yield* update({ id, version }, { name }).pipe(
            Effect.catchTag("RowNotFound", () => new TrailNotFound({ id })),
            Effect.flatMap(changed)
          )
        }, constraints),
        pause: move("paused"),
        resume: move("active")
      }
    })
  )
}

/** A summary that was found, if it is the owner's: somebody else's trail is as unknown as one that never was. */
export const ownedBy = (
  owner: UserId,
  id: TrailId,
  found: Option.Option<TrailSummary>
): Effect.Effect<TrailSummary, TrailNotFound> =>
  Option.isSome(found) && found.value.ownerId === owner
    ? Effect.succeed(found.value)
    : Effect.fail(new TrailNotFound({ id }))

const constraints = Changeset.constraints({
  trails_owner_name_key: { field: "name", message: "is the name of another trail of yours" }
})
