export type { paths, components } from "./api.js";
export { UnswayOpenAI } from "./client.js";
export { Profiles } from "./profiles.js";
export { receipt, trace } from "./receipt.js";
export type * from "./steered.js";
export type * from "./types.js";
