/** Looking at jobs, and changing them by hand. */
import { Schema } from "effect"
import { JobId } from "../Job.ts"

/** No job has that number: it was deleted, or pruned from the history, or never existed. */
export class JobNotFound extends Schema.TaggedError<JobNotFound>("@coppice/jobs/JobNotFound")("JobNotFound", {
  id: JobId
}) {
  override get message(): string {
    return `There is no job ${this.id}: it was deleted, or has left the history`
  }
}
