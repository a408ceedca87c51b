/** The supervision tree of the application. */
import { Jobs } from "@coppice/jobs"
import { PubSub } from "@coppice/pubsub"
import { Child, Process, Supervisor } from "@coppice/supervision"
import { Layer } from "effect"
import { CaptureLimiter } from "./CaptureLimiter.ts"
import { Captures } from "./Captures.ts"
import * as Database from "./Database.ts"
import { Followers } from "./Followers.ts"
import * as Digest from "./jobs/DigestWorker.ts"
import { MetadataWorker } from "./jobs/MetadataWorker.ts"
import { NotificationWorker } from "./jobs/NotificationWorker.ts"
import { Notifications } from "./Notifications.ts"
import { PageMetadata } from "./PageMetadata.ts"
import * as Seed from "./Seed.ts"
import type { Settings } from "./Settings.ts"
import * as TrailCache from "./TrailCache.ts"
import { Trails } from "./Trails.ts"
import { Users } from "./Users.ts"
import * as Viewers from "./Viewers.ts"
import * as Web from "./web/Web.ts"

/** Everything in one process. Each child sees those above it, and whichever crashes, the others go on with the next one. */
export const layer = (settings: Settings) =>
  Supervisor.layer("Trails", {
    ...patience,
    children: [
      Child.layer("database", Database.layer(settings)),
      Child.layer("pubsub", PubSub.layerPostgres()),
      Child.layer("viewers", Viewers.layer),
      Child.layer("trail-cache", TrailCache.layer()),
      Child.layer("capture-limiter", CaptureLimiter.layer({ perMinute: settings.capturesPerMinute })),
      Child.layer("jobs", jobs(settings)),
      Child.layer("web", Web.layer(settings).pipe(Layer.provide(Seed.layer), Layer.provide(Domain)))
    ]
  })

/** A process that runs jobs, beside others on the same database. */
export const layerWorker = (settings: Settings) =>
  Supervisor.layer("Trails", {
    ...patience,
    children: [
      Child.layer("database", Database.layer(settings)),
      Child.layer("pubsub", PubSub.layerPostgres()),
      Child.layer("jobs", jobs(settings))
    ]
  })

const patience = { strategy: "one_for_one", maxRestarts: 5, within: "5 seconds" } as const

/**
 * Enqueues for the services. Not the queue that runs jobs: a transaction that waited for that one after a crash would keep
 * the connection that it needs to come back. Unlinked, for a database that is down and cannot be notified of jobs is no
 * reason to stop the web server; whoever polls finds them.
 */
const enqueueing = Process.unlinked(Layer.build(Jobs.layerClient))

/** Services without state: no process of their own, they run wherever they are called. */
const Domain = Layer.mergeAll(Users.layer, Trails.layer, Captures.layer).pipe(
  Layer.provideMerge(Layer.mergeAll(Followers.layer, Notifications.layer)),
  Layer.provideMerge(Layer.effectContext(enqueueing))
)

/** What is done outside of requests, by whichever process has time for it. */
const jobs = ({ jobLeaseSeconds, timeZone }: Settings) =>
  Jobs.layer({
    queues: { default: 10, notifications: 5 },
    workers: [MetadataWorker.layer, NotificationWorker.layer, Digest.DigestWorker.layer],
    cron: [Digest.nightly(timeZone)],
    lease: `${jobLeaseSeconds} seconds`,
    shutdownGrace: "4 seconds"
  }).pipe(Layer.provide([PageMetadata.layer, Notifications.layer]))
