import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Followers } from "../src/Followers.ts"
import { TrailId } from "../src/Trail.ts"
import { Domain, newTrail, newUser } from "./fixtures/domain.ts"

const nowhere = TrailId.make("00000000-0000-7000-8000-000000000000")

layer(Domain)("Followers", (it) => {
  it.effect("follow a trail when its owner says so, once however often, and the owner may be one of them", () =>
    Effect.gen(function* () {
      const followers = yield* Followers
      const { owner, trail } = yield* newTrail
      const [ada, grace] = [yield* newUser, yield* newUser]
      assert.deepStrictEqual(yield* followers.list(owner, trail.id), [])
      yield* Effect.all(
        Array.from({ length: 8 }, () => followers.add(owner, trail.id, { name: ` ${ada.name} ` })),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(yield* followers.add(owner, trail.id, { name: grace.name }), grace)
      assert.sameDeepMembers([...(yield* followers.list(owner, trail.id))], [ada, grace])
      assert.sameMembers([...(yield* followers.of(trail.id))], [ada.id, grace.id])
      assert.lengthOf(yield* followers.followedBy(ada.id), 1)
    })
  )

  it.effect("must be somebody", () =>
    Effect.gen(function* () {
      const followers = yield* Followers
      const { owner, trail } = yield* newTrail
      for (const [input, fields] of [
        [{ name: "nobody at all" }, { name: ["is the name of nobody"] }],
        [{ name: "  " }, { name: ["must not be empty"] }],
        [{}, { name: ["is required"] }],
        [null, { $: ["must be an object"] }]
      ] as const) {
        const error = yield* Effect.flip(followers.add(owner, trail.id, input))
        assert(error._tag === "ValidationError")
        assert.deepStrictEqual(error.fields, fields)
      }
    })
  )

  it.effect("stop when they leave or the owner removes them; nobody else can", () =>
    Effect.gen(function* () {
      const followers = yield* Followers
      const { owner, trail } = yield* newTrail
      const [ada, grace, stranger] = [yield* newUser, yield* newUser, yield* newUser]
      for (const { name } of [ada, grace]) yield* followers.add(owner, trail.id, { name })
      const names = Effect.map(followers.list(owner, trail.id), (users) => users.map(({ name }) => name))
      for (const by of [stranger, ada]) {
        assert.strictEqual((yield* Effect.flip(followers.remove(by.id, trail.id, grace.name)))._tag, "TrailNotFound")
      }
      assert.sameMembers([...(yield* names)], [ada.name, grace.name])
      yield* followers.remove(ada.id, trail.id, ada.name)
      assert.deepStrictEqual(yield* names, [grace.name])
      yield* followers.remove(owner, trail.id, grace.name)
      yield* followers.remove(owner, trail.id, grace.name)
      assert.deepStrictEqual(yield* names, [])
      assert.deepStrictEqual(yield* followers.followedBy(grace.id), [])
    })
  )

  it.effect("are the business of the owner alone", () =>
    Effect.gen(function* () {
      const followers = yield* Followers
      const { owner, trail } = yield* newTrail
      const stranger = yield* newUser
      yield* followers.add(owner, trail.id, { name: stranger.name })
      for (const refused of [
        followers.list(stranger.id, trail.id),
        followers.add(stranger.id, trail.id, { name: stranger.name }),
        followers.remove(stranger.id, trail.id, "anybody"),
        followers.list(owner, nowhere),
        followers.add(owner, nowhere, { name: stranger.name }),
        followers.remove(owner, nowhere, stranger.name)
      ]) {
        assert.strictEqual((yield* Effect.flip(refused))._tag, "TrailNotFound")
      }
    })
  )

  it.effect("know the trails that they follow by name and owner", () =>
    Effect.gen(function* () {
      const followers = yield* Followers
      const { owner, trail } = yield* newTrail
      const ada = yield* newUser
      yield* followers.add(owner, trail.id, { name: ada.name })
      const [followed] = yield* followers.followedBy(ada.id)
      assert.deepInclude({ ...followed }, { id: trail.id, name: "Ridge" })
      assert.match(followed?.owner ?? "", /^user \d+$/)
    })
  )
})
