/** A person who keeps trails. */
import { Domain } from "@coppice/domain"
import { Schema } from "effect"
import { Model } from "effect/schema"

export const UserId = Schema.Int.pipe(Schema.brand("UserId"))
export type UserId = typeof UserId.Type

export class User extends Domain.Entity(
  Model.Class<User>("trails/User")({
    id: Model.GeneratedByDb(UserId),
    name: Schema.String
  })
) {}
