/** What replies say about steering. Of any OpenAI client's: extra keys survive in them, types do not. */

import type { Receipt, Schemas, TracedToken } from "./types.js";

/** A chat, a completion, a chunk of their streams, or what `client.traces(id)` gives. */
export interface Reply {
  choices: readonly { index: number }[];
}

/** What of a choice is read here, whichever reply it is of. */
type Choice = Partial<Pick<Schemas["TracedChoice"], "steering" | "tokens">> & {
  logprobs?: Schemas["Logprobs"] | Schemas["TextLogprobs"] | null;
};

/**
 * What fired in the answer number `index`, where and how hard: of a reply, or of the chunks of a stream. Undefined where
 * steering was off, and for chunks before an answer's last.
 */
export function receipt(reply: Reply | readonly Reply[], index = 0): Receipt | undefined {
  return choices(reply, index).findLast(({ steering }) => steering)?.steering;
}

/**
 * The tokens of the answer number `index`, with what the lens saw at each if `steering: { trace: "tokens" }` was asked for;
 * none at all of replies without log-probabilities.
 */
export function trace(reply: Reply | readonly Reply[], index = 0): TracedToken[] {
  return choices(reply, index).flatMap(tokens);
}

function choices(reply: Reply | readonly Reply[], index: number): Choice[] {
  const replies = "choices" in reply ? [reply] : reply;
  return replies.flatMap(({ choices }) => choices.filter((choice) => choice.index === index) as Choice[]);
}

function tokens({ tokens, logprobs }: Choice): TracedToken[] {
  if (tokens) return tokens;
  if (!logprobs) return [];
  if ("content" in logprobs) return logprobs.content.map(({ token, steering }) => traced(token, steering));
  return logprobs.tokens.map((token, i) => traced(token, logprobs.steering?.[i]));
}

function traced(token: string, steering: TracedToken["steering"] | null): TracedToken {
  return steering ? { token, steering } : { token };
}
