export * as TestJobs from "./TestJobs.ts"
