/** The key of the service. */
import { Context } from "effect"
import type { Shape } from "../../DurableTopic.ts"

/** The service. */
export class DurableTopics extends Context.Service<DurableTopics, Shape>()("@coppice/pubsub/DurableTopics") {}
