/** Short names for what `api.ts` (generated, see README.md) says of the wire. */

import type { components } from "./api.js";

export type Schemas = components["schemas"];

/** `any` until `npm run generate` has seen an API that has it. */
type Named<Name extends string> = Name extends keyof Schemas ? Schemas[Name] : any;

/** The `steering` field: true, false, a profile's name or full control. */
export type Steering = NonNullable<Schemas["ChatRequest"]["steering"]>;
export type SteeringOptions = Schemas["SteeringOptions"];
export type Receipt = Schemas["Receipt"];
export type TokenTrace = Schemas["TokenTrace"];
export type TracedToken = Schemas["TracedToken"];
export type Trace = Schemas["Trace"];
export type Profile = Schemas["Profile"];
export type ProfileDetails = Schemas["ProfileDetails"];
export type ProfileList = Schemas["ProfileList"];
export type LensRequest = Schemas["LensRequest"];
export type LensReply = Schemas["LensReply"];
export type Job = Named<"Job">;
export type JobRequest = Named<"JobRequest">;
export type JobSummary = Named<"JobSummary">;
export type JobList = { data: JobSummary[] };
export type JobDeleted = Named<"JobDeleted">;
export type JobProgress = Named<"JobProgress">;

/** One event of a job's stream. */
export type JobEvent =
  | { event: "state"; data: { state: "running" | "interrupted"; attempt?: number; reason?: string } }
  | { event: "progress"; data: JobProgress }
  | { event: "log"; data: { line: string } }
  | { event: "end"; data: JobSummary };
