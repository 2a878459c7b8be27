/** What a reply says about steering, from replies of any OpenAI client: extra keys survive in them, types do not. */

import type { Receipt, Schemas, TracedToken } from "./types.js";

/** A chat, a completion or a chunk of their streams. */
export interface Reply {
  choices: readonly { index: number }[];
}

/** What fired, where and how hard. Undefined where steering was off, and in all chunks of a stream but a choice's last. */
export function receipt(reply: Reply, index = 0): Receipt | undefined {
  return choice(reply, index)?.steering;
}

/** The tokens of a reply, or of a chunk, with what the lens saw at each; needs `steering: { trace: "tokens" }`. */
export function trace(reply: Reply, index = 0): TracedToken[] {
  const logprobs = choice(reply, index)?.logprobs;
  if (!logprobs) return [];
  if ("content" in logprobs) return logprobs.content.map(({ token, steering }) => traced(token, steering));
  return logprobs.tokens.map((token, i) => traced(token, logprobs.steering?.[i]));
}

function choice(reply: Reply, index: number): Schemas["Choice"] | Schemas["TextChoice"] | undefined {
  return reply.choices.find((choice) => choice.index === index) as Schemas["Choice"] | Schemas["TextChoice"] | undefined;
}

function traced(token: string, steering: TracedToken["steering"] | null): TracedToken {
  return steering ? { token, steering } : { token };
}
