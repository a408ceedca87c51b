export * as Child from "./Child.ts"
export * as Process from "./Process.ts"
export * as Supervisor from "./Supervisor.ts"
export * as Tree from "./Tree.ts"
