/** Everybody who can be measured, by name: what is measured in one thread is opened again in another. */
import { coppicePubSub } from "../pubsub/Postgres.ts"
import { bullMq } from "./BullMq.ts"
import { coppice } from "./Coppice.ts"
import { floor } from "./Floor.ts"
import { graphileWorker } from "./GraphileWorker.ts"
import type { Implementation, SignalQueue } from "./Implementation.ts"
import { notify, notifyQuickly } from "./Notify.ts"
import { persistedQueue } from "./PersistedQueue.ts"
import { pgBoss } from "./PgBoss.ts"

export const implementations: ReadonlyArray<Implementation<SignalQueue>> = [
  coppice,
  notify,
  notifyQuickly,
  coppicePubSub,
  floor,
  graphileWorker,
  pgBoss,
  persistedQueue,
  bullMq
]
