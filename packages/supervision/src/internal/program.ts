/** What `Application.launch` is told by the root supervisors of its layer, wherever in it they were built. */
import { type Cause, Context } from "effect"
import type { Registry } from "./nodes.ts"

export interface Program {
  /** A root supervisor has registered itself. */
  readonly starting: (registry: Registry) => void
  /** One that was up is going to end by itself, once it has stopped its children. */
  readonly ending: (cause: Cause.Cause<unknown>) => void
  readonly ended: (cause: Cause.Cause<unknown>) => void
}

export const CurrentProgram = Context.Reference<Program | undefined>("@coppice/supervision/Program", {
  defaultValue: () => undefined
})
