/** Unsway as a provider of the AI SDK. */

import { createOpenAICompatible, type OpenAICompatibleProviderSettings } from "@ai-sdk/openai-compatible";
import { address, key } from "./environment.js";
import { receipt, type Reply, trace } from "./receipt.js";
import type { Receipt, TracedToken } from "./types.js";

/** `providerMetadata.unsway` of a result. */
export type UnswayMetadata = {
  /** Of the reply; its trace is kept under it. */
  id: string;
  /** Absent where steering was off. */
  receipt?: Receipt;
  /** Absent where `trace: "tokens"` was not asked for. */
  trace?: TracedToken[];
};

/** As `createOpenAICompatible` takes them; `baseURL` and `apiKey` default to UNSWAY_BASE_URL and UNSWAY_API_KEY. */
export type UnswaySettings = Partial<Omit<OpenAICompatibleProviderSettings, "name" | "metadataExtractor">>;

/** Its models take `providerOptions: { unsway: { steering } }`, its results have `UnswayMetadata`. */
export function createUnsway(settings: UnswaySettings = {}) {
  return createOpenAICompatible({
    includeUsage: true,
    supportsStructuredOutputs: true,
    ...settings,
    name: "unsway",
    baseURL: settings.baseURL ?? address(),
    apiKey: settings.apiKey ?? key(),
    metadataExtractor: {
      extractMetadata: async ({ parsedBody }) => metadata([parsedBody as Chunk]),
      createStreamExtractor() {
        const chunks: Chunk[] = [];
        return {
          processChunk: (chunk) => chunks.push(chunk as Chunk),
          buildMetadata: () => metadata(chunks),
        };
      },
    },
  });
}

/** Also one that only tells an error, or one that is undefined for it was no JSON. */
type Chunk = { choices?: readonly { index: number }[]; id?: string } | undefined;

function metadata(chunks: Chunk[]): { unsway: UnswayMetadata } | undefined {
  const replies = chunks.filter(
    (chunk): chunk is NonNullable<Chunk> & Reply & { id: string } => chunk?.choices !== undefined,
  );
  if (!replies[0]) return undefined;
  const told: UnswayMetadata = { id: replies[0].id };
  const [fired, tokens] = [receipt(replies), trace(replies)];
  if (fired) told.receipt = fired;
  if (tokens.some(({ steering }) => steering)) told.trace = tokens;
  return { unsway: told };
}
