/** What must, and what must not, compile. Run by `tsc`, never by node. */

import type OpenAI from "openai";
import type { AutoParseableResponseFormat } from "openai/lib/parser";
import type { Receipt, SteeringOptions, UnswayOpenAI } from "../src/index.js";

declare const client: UnswayOpenAI;
declare const city: AutoParseableResponseFormat<{ city: string }>;
declare const messages: OpenAI.ChatCompletionMessageParam[];

export async function typed(): Promise<void> {
  const chats = client.chat.completions;
  const reply = await chats.create({ model: "m", messages, steering: { profile: "candid", strength: 0.5 }, top_k: 40 });
  reply.choices[0]?.steering satisfies Receipt | undefined;
  reply.choices[0]?.logprobs?.content[0]?.steering?.drift satisfies number | undefined;
  reply satisfies OpenAI.ChatCompletion;
  for await (const chunk of await chats.create({ model: "m", messages, stream: true, steering: true })) {
    chunk.choices[0]?.steering?.applied satisfies boolean | undefined;
  }
  for (const steering of [true, false, "candid", null, { mode: "compare" }] as const) {
    await chats.create({ model: "m", messages, steering });
    chats.stream({ model: "m", messages, steering });
    await client.completions.create({ model: "m", prompt: "x", steering });
    await client.responses.create({ model: "m", input: "x", steering });
  }
  const stream = chats.stream({ model: "m", messages, response_format: city, steering: true });
  (await stream.finalChatCompletion()).choices[0]?.message.parsed?.city satisfies string | undefined;
  client satisfies OpenAI;

  // @ts-expect-error not a key
  const options: SteeringOptions = { stength: 1 };
  // @ts-expect-error not a key
  await chats.create({ model: "m", messages, steering: { stength: 1 } });
  // @ts-expect-error not a mode
  chats.stream({ model: "m", messages, steering: { mode: "maybe" } });
  // @ts-expect-error not a key, in a stream
  chats.stream({ model: "m", messages, steering: { profile: "candid", stength: 1 } });
  const response = await client.responses.create({ model: "m", input: "x", steering: { trace: "tokens" } });
  response.steering?.fired_tokens satisfies number | undefined;
  response satisfies OpenAI.Responses.Response;
  for await (const event of await client.responses.create({ model: "m", input: "x", stream: true, steering: true })) {
    event.type satisfies string;
  }
  // @ts-expect-error not a key
  await client.responses.create({ model: "m", input: "x", steering: { stength: 1 } });
  // @ts-expect-error not a number
  await client.completions.create({ model: "m", prompt: "x", steering: 1 });
  void options;
}
