/** A person who keeps trails. */
import { Schema } from "effect"
import { Model } from "effect/schema"

export const UserId = Schema.Int.pipe(Schema.brand("UserId"))
export type UserId = typeof UserId.Type

export class User extends Model.Class<User>("trails/User")({
  id: Model.GeneratedByDb(UserId),
  name: Schema.String
}) {}
