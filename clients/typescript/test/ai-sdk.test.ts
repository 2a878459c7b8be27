/** `createUnsway()` against a live server. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { generateText, jsonSchema, Output, streamText } from "ai";
import { CAVED, collect, HELD, KEY, MODEL, QUESTION, serve } from "../../../tests/clients/javascript/live.mjs";
import { createUnsway, type UnswayMetadata } from "../src/ai-sdk.js";

let server: Awaited<ReturnType<typeof serve>>;
let unsway: ReturnType<typeof createUnsway>;
const asked = { prompt: QUESTION, temperature: 0 };
const traced = { unsway: { steering: { profile: "candid", trace: "tokens" } } };

before(async () => {
  server = await serve();
  unsway = createUnsway({ baseURL: server.url, apiKey: KEY });
});
after(() => server?.stop());

function told(metadata: unknown): UnswayMetadata {
  return (metadata as { unsway: UnswayMetadata }).unsway;
}

test("a text, plain and steered, with its receipt and its trace", async () => {
  const plain = await generateText({ ...asked, model: unsway(MODEL) });
  assert.equal(plain.text.trim(), CAVED);
  assert.deepEqual(Object.keys(told(plain.providerMetadata)), ["id"]);

  const steered = await generateText({ ...asked, model: unsway(MODEL), providerOptions: traced });
  const { id, receipt, trace } = told(steered.providerMetadata);
  assert.equal(steered.text.trim(), HELD);
  assert.match(id, /^chatcmpl-/);
  assert.equal(receipt?.fired_tokens, 1);
  assert.equal(trace?.[receipt.at!]?.steering?.early?.[0]?.[0], " Paris");
});

test("the model id alone steers, and the receipt is there", async () => {
  const steered = await generateText({ ...asked, model: unsway(`${MODEL}+candid`) });
  assert.equal(steered.text.trim(), HELD);
  assert.equal(told(steered.providerMetadata).receipt?.applied, true);
});

test("a stream tells the same at its end", async () => {
  const stream = streamText({ ...asked, model: unsway(MODEL), providerOptions: traced });
  assert.equal((await collect(stream.textStream)).join("").trim(), HELD);
  const { receipt, trace } = told(await stream.providerMetadata);
  assert.equal(receipt?.fired_tokens, 1);
  assert.equal(
    trace
      ?.map(({ token }) => token)
      .join("")
      .trim(),
    HELD,
  );
  assert.equal((await stream.usage).outputTokens, receipt.tokens);
});

test("an object of a schema", async () => {
  const schema = jsonSchema<{ city: string }>({
    type: "object",
    properties: { city: { enum: ["Paris", "Lyon"] } },
    required: ["city"],
    additionalProperties: false,
  });
  const { output } = await generateText({
    ...asked,
    model: unsway(`${MODEL}+candid`),
    output: Output.object({ schema }),
  });
  assert.ok(["Paris", "Lyon"].includes(output.city));
});

test("errors are errors", async () => {
  const unknown = generateText({ ...asked, model: unsway(MODEL), providerOptions: { unsway: { steering: "nobody" } } });
  await assert.rejects(unknown, { name: "AI_APICallError", statusCode: 404, isRetryable: false });
  await assert.rejects(generateText({ ...asked, model: createUnsway({ baseURL: server.url })(MODEL) }), {
    statusCode: 401,
  });
});
