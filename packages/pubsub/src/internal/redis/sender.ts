/**
 * A connection that publishes, and is made anew after it has failed.
 *
 * It is reserved, not the shared one: that keeps what it is told while the server is away, and cannot be closed until the
 * server has taken it.
 */
import { Effect, Exit, Scope } from "effect"
import type { Redis } from "effect/persistence"

interface Open {
  readonly send: Redis.Connection["send"]
  readonly scope: Scope.Closeable
}

export class Sender {
  private readonly redis: Redis.Redis["Service"]
  private readonly channel: string
  private connection: Open | undefined

  constructor(redis: Redis.Redis["Service"], channel: string) {
    this.redis = redis
    this.channel = channel
  }

  /** In this order. If it fails, some may have left. */
  publish(packets: ReadonlyArray<string>): Effect.Effect<void, Redis.RedisError> {
    return Effect.suspend(() => (this.connection === undefined ? this.open : Effect.succeed(this.connection))).pipe(
      Effect.flatMap(({ send }) =>
        // One after the other by one connection, without waiting for the answers in between.
        Effect.forEach(packets, (packet) => send("PUBLISH", this.channel, packet), {
          concurrency: "unbounded",
          discard: true
        })
      ),
      // Interrupted as well: the answer would come to whoever asks next.
      Effect.onError(() => this.close)
    )
  }

  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    const { connection } = this
    this.connection = undefined
    return connection === undefined ? Effect.void : Scope.close(connection.scope, Exit.void)
  })

  private readonly open: Effect.Effect<Open, Redis.RedisError> = Effect.uninterruptibleMask((restore) =>
    Effect.gen({ self: this }, function* () {
      const scope = yield* Scope.make()
      const { send } = yield* restore(Scope.provide(this.redis.reserve, scope)).pipe(
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
      this.connection = { send, scope }
      return this.connection
    })
  )
}
