/** The identity of a node: random, so that no two are alike, and another one each time that the process starts. */
import { Effect, Random } from "effect"

export const nodeId: Effect.Effect<string> = Effect.map(
  Effect.all(Array.from({ length: 4 }, () => Random.nextIntBetween(0, 2 ** 32))),
  (parts) => parts.map((part) => part.toString(16).padStart(8, "0")).join("")
)
