/** The supervision tree of the application. */
import { Child, Supervisor } from "@coppice/supervision"
import { Layer } from "effect"
import { CaptureLimiter } from "./CaptureLimiter.ts"
import { Captures } from "./Captures.ts"
import * as Database from "./Database.ts"
import { Followers } from "./Followers.ts"
import { Notifications } from "./Notifications.ts"
import type { Settings } from "./Settings.ts"
import * as TrailCache from "./TrailCache.ts"
import { Trails } from "./Trails.ts"
import { Users } from "./Users.ts"
import * as Web from "./web/Web.ts"

/** Services without state: no process of their own, they run wherever they are called. */
const Domain = Layer.mergeAll(Users.layer, Trails.layer, Captures.layer, Followers.layer, Notifications.layer).pipe(
  Layer.provide(TrailCache.layerEvents)
)

/** Each child sees those above it. Whichever crashes, those above and below keep working with the one that replaces it. */
export const layer = (settings: Settings) =>
  Supervisor.layer("Trails", {
    strategy: "one_for_one",
    maxRestarts: 3,
    within: "5 seconds",
    children: [
      Child.layer("database", Database.layer(settings.data)),
      Child.layer("trail-cache", TrailCache.TrailCache.layer()),
      Child.layer("capture-limiter", CaptureLimiter.layer({ perMinute: settings.capturesPerMinute })),
      Child.layer("web", Web.layer(settings).pipe(Layer.provide(Domain)))
    ]
  })
