/** Names for what the wire carries; `schema.d.ts` is generated from openapi/openapi.json. */
import type { components } from "./schema";

type Schemas = components["schemas"];
export type Chunk = Schemas["ChatCompletionChunk"];
export type Config = Schemas["Config"];
export type ErrorBody = Schemas["ErrorBody"];
export type LensReply = Schemas["LensReply"];
export type LensCell = Schemas["LensCell"];
export type ModelList = Schemas["ModelList"];
export type Profile = Schemas["Profile"];
export type ProfileDetails = Schemas["ProfileDetails"];
export type Correction = Schemas["ProfileCorrection"];
export type Receipt = Schemas["Receipt"];
export type TokenLogprob = Schemas["TokenLogprob"];
export type TokenTrace = Schemas["TokenTrace"];

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

export type Mode = "compare" | "on" | "observe" | "off";
export type Gate = "profile" | "drift" | "always";

export interface SteeringOptions {
  profile?: string;
  mode: Mode;
  strength?: number;
  gate?: Gate;
  threshold?: number;
  trace?: "tokens";
}

export interface ChatBody {
  model: string;
  messages: Message[];
  temperature: number;
  max_tokens?: number;
  steering: SteeringOptions | false;
}

export interface LensBody {
  messages: Message[];
  candidates?: string[];
  profile?: string;
  top_logprobs?: number;
  positions?: number;
  layers?: number[];
}

/** Text and log-probability. */
export type Said = [string, number];
