export type { paths, components } from "./api.js";
export { UnswayOpenAI } from "./client.js";
export { Jobs } from "./jobs.js";
export { Profiles, type ChangeOptions } from "./profiles.js";
export { receipt, trace } from "./receipt.js";
export type * from "./steered.js";
export type * from "./types.js";
