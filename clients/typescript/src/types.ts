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
