/** Short names for what `api.ts` (generated, see README.md) says of the wire. */

import type { components } from "./api.js";

export type Schemas = components["schemas"];

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
export type VerifyRequest = Schemas["VerifyRequest"];
export type VerifyReply = Schemas["VerifyReply"];
export type Job = Schemas["Job"];
export type JobRequest = Schemas["JobRequest"];
export type JobSummary = Schemas["JobSummary"];
export type JobList = Schemas["JobList"];
export type JobDeleted = Schemas["JobDeleted"];
export type JobProgress = Schemas["JobProgress"];

/** One event of a job's stream. */
export type JobEvent =
  | { event: "state"; data: Pick<JobSummary, "state" | "reason"> & { attempt?: number } }
  | { event: "progress"; data: JobProgress }
  | { event: "log"; data: { line: string } }
  | { event: "end"; data: JobSummary };
