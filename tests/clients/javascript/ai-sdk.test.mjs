/** The AI SDK, 6 and 7, by both of its providers for such servers: one passes what it does not know, the other does not. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { broken, failure, withFake } from "./fake.mjs";
import { CAVED, collect, HELD, kept, KEY, MODEL, QUESTION, SCHEMA, serve } from "./live.mjs";

const asked = { prompt: QUESTION, temperature: 0, include: { requestBody: true, responseBody: true } };
const HEADERS = { "X-Steering-Profile": "candid" };
let server;

before(async () => (server = await serve()));
after(() => server?.stop());

for (const [version, ...packages] of [
  ["AI SDK 6", "ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"],
  ["AI SDK 7", "ai-7", "ai-7-openai", "ai-7-openai-compatible"],
]) {
  const [sdk, { createOpenAI }, { createOpenAICompatible }] = await Promise.all(packages.map((name) => import(name)));
  const compatible = (settings) =>
    createOpenAICompatible({
      name: "unsway",
      baseURL: server.url,
      apiKey: KEY,
      includeUsage: true,
      supportsStructuredOutputs: true,
      ...settings,
    });
  const openai = (settings) => createOpenAI({ baseURL: server.url, apiKey: KEY, ...settings });
  testBoth(`${version}, openai-compatible`, sdk, compatible);
  testBoth(`${version}, openai`, sdk, (settings) => openai(settings).chat);
  testBodies(version, sdk, compatible, openai);
}

/** What holds of either provider. */
function testBoth(title, { generateText, jsonSchema, Output, streamText }, provider) {
  describe(title, () => {
    test("a text, plain and streamed", async () => {
      assert.equal((await generateText({ ...asked, model: provider()(MODEL) })).text.trim(), CAVED);
      const stream = streamText({ ...asked, model: provider()(MODEL) });
      assert.equal((await collect(stream.textStream)).join("").trim(), CAVED);
      assert.ok((await stream.usage).outputTokens > 0);
    });

    for (const [channel, model, more] of [
      ["a header", MODEL, { headers: HEADERS }],
      ["the model's id", `${MODEL}+candid`, {}],
    ]) {
      test(`steering by ${channel}; the receipt is kept on the server`, async () => {
        const whole = await generateText({ ...asked, model: provider()(model), ...more });
        assert.equal(whole.text.trim(), HELD);
        assert.match(whole.response.headers["x-steering-profile"], /^candid@/);
        assert.equal((await kept(server, whole.response.id)).steering.fired_tokens, 1);

        const stream = streamText({ ...asked, model: provider()(model), ...more });
        assert.equal((await collect(stream.textStream)).join("").trim(), HELD);
        assert.equal((await kept(server, (await stream.response).id)).steering.fired_tokens, 1);
      });
    }

    test("the trace is in the raw body, in raw chunks and on the server; not in what the provider tells", async () => {
      const more = { headers: { "X-Steering-Profile": "candid;trace=tokens" } };
      const whole = await generateText({ ...asked, model: provider()(MODEL), ...more });
      const [choice] = whole.response.body.choices;
      assert.equal(choice.logprobs.content[choice.steering.at].steering.early[0][0], " Paris");
      assert.doesNotMatch(JSON.stringify(whole.providerMetadata), /fired/, "where it is told, the page must say so");
      const { steering, tokens } = await kept(server, whole.response.id);
      assert.equal(tokens[steering.at].steering.early[0][0], " Paris");

      const stream = streamText({ ...asked, model: provider()(MODEL), ...more, includeRawChunks: true });
      const raw = (await collect(stream.fullStream)).flatMap((part) => (part.type === "raw" ? [part.rawValue] : []));
      const streamed = raw.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? []);
      assert.equal(streamed.filter((token) => token.steering.fired).length, 1);
      assert.ok(raw.some(({ choices }) => choices[0]?.steering?.applied));
    });

    test("steering by a header of all requests", async () => {
      const model = provider({ headers: HEADERS })(MODEL);
      assert.equal((await generateText({ ...asked, model })).text.trim(), HELD);
    });

    test("an object of a schema", async () => {
      const output = Output.object({ schema: jsonSchema(SCHEMA) });
      const whole = await generateText({ ...asked, model: provider()(`${MODEL}+candid`), output });
      assert.ok(SCHEMA.properties.city.enum.includes(whole.output.city));
    });

    test("errors are errors, and those of no use are not retried", async () => {
      const unknown = generateText({ ...asked, model: provider()(`${MODEL}+nobody`) });
      await assert.rejects(unknown, { name: "AI_APICallError", statusCode: 404, isRetryable: false });
      const locked = generateText({ ...asked, model: provider({ apiKey: "wrong" })(MODEL) });
      await assert.rejects(locked, { name: "AI_APICallError", statusCode: 401, isRetryable: false });
    });

    test("an error in a stream is an error part", async () => {
      await withFake([broken("numerical_error")], async (baseURL) => {
        const heard = [];
        const model = provider({ baseURL })(MODEL);
        const stream = streamText({ ...asked, model, onError: ({ error }) => heard.push(error) });
        const parts = await collect(stream.fullStream);
        const text = parts.flatMap((part) => (part.type === "text-delta" ? [part.text] : []));
        assert.equal(text.join(""), "Hello there");
        assert.equal(parts.filter(({ type }) => type === "error").length, 1);
        assert.match(JSON.stringify(heard), /numerical_error/);
        assert.equal(await stream.finishReason, "error");

        const texts = await collect(streamText({ ...asked, model, onError() {} }).textStream);
        assert.equal(texts.join(""), "Hello there", "it ends as if all were well");
      });
    });

    test("retries: three sends by status; `x-should-retry` is not read", async () => {
      const soon = { "retry-after-ms": "1" };
      for (const [reply, sends] of [
        [failure(429, "queue_full", soon), 3],
        [failure(503, "draining", soon), 3],
        [failure(500, "numerical_error", { ...soon, "x-should-retry": "false" }), 3],
        [failure(400, "invalid_value"), 1],
      ]) {
        const generate = (baseURL) => assert.rejects(generateText({ ...asked, model: provider({ baseURL })(MODEL) }));
        assert.equal(await withFake([reply], generate), sends, reply.body.error.code);
      }
    });
  });
}

/** Where they differ. */
function testBodies(version, { generateText, streamText }, compatible, openai) {
  test(`${version}, openai-compatible: steering in the body`, async () => {
    const model = compatible()(MODEL);
    const providerOptions = { unsway: { steering: "candid" } };
    assert.equal((await generateText({ ...asked, model, providerOptions })).text.trim(), HELD);
    const stream = streamText({ ...asked, model, providerOptions });
    assert.equal((await collect(stream.textStream)).join("").trim(), HELD);
  });

  test(`${version}, openai: steering in the body is dropped before it is sent`, async () => {
    const providerOptions = { openai: { steering: "candid" } };
    const plain = await generateText({ ...asked, model: openai().chat(MODEL), providerOptions });
    assert.equal(plain.text.trim(), CAVED);
    assert.deepEqual([plain.request.body.model, "steering" in plain.request.body], [MODEL, false]);
  });
}
