/** What replies say about steering. Of any OpenAI client's: extra keys survive in them, types do not. */

import type { Receipt, Schemas, TracedToken } from "./types.js";

/** A chat, a completion, a chunk of their streams, or what `client.traces(id)` gives; or a response. */
export type Reply = { choices: readonly { index: number }[] } | { output: readonly object[] };

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
  const replies = "choices" in reply || "output" in reply ? [reply] : reply;
  return replies.flatMap((reply) => {
    if ("output" in reply) return index === 0 ? [answer(reply)] : [];
    return reply.choices.filter((choice) => choice.index === index) as Choice[];
  });
}

/** A part of a response that may have said something. */
type Part = { logprobs?: Schemas["TracedToken"][]; content?: Part[] | null };

/** A response as the only choice: its items say one after the other what was generated. */
function answer(reply: { output: readonly object[] }): Choice {
  const parts = (reply.output as Part[]).flatMap((item) => [item, ...(item.content ?? [])]);
  const tokens = parts.flatMap(({ logprobs }) => logprobs ?? []).map(({ token, steering }) => traced(token, steering));
  return { ...("steering" in reply && { steering: reply.steering as Receipt }), tokens };
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
