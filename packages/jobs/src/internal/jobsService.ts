/** The key of the service, apart from its layers, so that workers can name it. */
import { Context } from "effect"
import type { Shape } from "../Jobs.ts"

export class Jobs extends Context.Service<Jobs, Shape>()("@coppice/jobs/Jobs") {}
