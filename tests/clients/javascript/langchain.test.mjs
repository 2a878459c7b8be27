/** LangChain JS: steering gets in by every way, what comes back is dropped; the server keeps it under the message's id. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { z } from "zod";
import { broken, failure, withFake } from "./fake.mjs";
import { CAVED, collect, HELD, kept, KEY, MODEL, QUESTION, SCHEMA, serve } from "./live.mjs";

const TRACED = { steering: { profile: "candid", trace: "tokens" } };
let server;

before(async () => (server = await serve()));
after(() => server?.stop());

for (const name of ["@langchain/openai", "langchain-openai-1.6"]) {
  const { ChatOpenAI } = await import(name);
  const connect = ({ configuration, ...fields } = {}) =>
    new ChatOpenAI({
      model: MODEL,
      temperature: 0,
      apiKey: KEY,
      configuration: { baseURL: server.url, ...configuration },
      ...fields,
    });
  describe(name, () => testChats(connect));
}

function testChats(connect) {
  test("a chat, plain and streamed", async () => {
    const message = await connect().invoke(QUESTION);
    assert.equal(message.content, CAVED);
    assert.ok(message.usage_metadata.output_tokens > 0 && message.response_metadata.system_fingerprint);
    const chunks = await collect(await connect().stream(QUESTION));
    assert.equal(
      chunks
        .map(({ content }) => content)
        .join("")
        .trim(),
      CAVED,
    );
  });

  for (const [channel, fields] of [
    ["the body", { modelKwargs: TRACED }],
    ["a header", { configuration: { defaultHeaders: { "X-Steering-Profile": "candid;trace=tokens" } } }],
    ["the model's id and the body", { model: `${MODEL}+candid`, modelKwargs: { steering: { trace: "tokens" } } }],
  ]) {
    test(`steering by ${channel}; receipt and trace are kept on the server`, async () => {
      const message = await connect(fields).invoke(QUESTION);
      assert.equal(message.content, HELD);
      assert.doesNotMatch(JSON.stringify(message), /fired_tokens/, "where it is told, the page must say so");
      const { steering, tokens } = await kept(server, message.id);
      assert.equal(tokens[steering.at].steering.early[0][0], " Paris");

      const chunks = await collect(await connect(fields).stream(QUESTION));
      assert.equal(
        chunks
          .map(({ content }) => content)
          .join("")
          .trim(),
        HELD,
      );
      assert.equal((await kept(server, chunks[0].id)).steering.fired_tokens, 1);
    });
  }

  test("headers of one call reach the server from `invoke`, and not from `stream`", async () => {
    const options = { headers: { "X-Steering-Profile": "candid" } };
    assert.equal((await connect().invoke(QUESTION, { options })).content, HELD);
    const chunks = await collect(await connect().stream(QUESTION, { options }));
    assert.equal(
      chunks
        .map(({ content }) => content)
        .join("")
        .trim(),
      CAVED,
      "fixed there: the page must say so",
    );
  });

  test("the raw reply has the receipt and the trace", async () => {
    const message = await connect({ modelKwargs: TRACED, __includeRawResponse: true }).invoke(QUESTION);
    const [choice] = message.additional_kwargs.__raw_response.choices;
    assert.equal(choice.logprobs.content[choice.steering.at].steering.early[0][0], " Paris");
  });

  test("structured output", async () => {
    const city = z.object({ city: z.enum(["Paris", "Lyon"]) });
    const model = connect({ model: `${MODEL}+candid` }).withStructuredOutput(city, { method: "jsonSchema" });
    assert.ok(SCHEMA.properties.city.enum.includes((await model.invoke(QUESTION)).city));
  });

  for (const [code, status, fields] of [
    ["steering_profile_not_found", 404, { modelKwargs: { steering: "nobody" } }],
    ["unknown_parameter", 400, { modelKwargs: { steering: { stength: 1 } } }],
    ["invalid_api_key", 401, { apiKey: "wrong" }],
  ]) {
    test(`an error: ${code}`, async () => {
      await assert.rejects(connect(fields).invoke(QUESTION), { code, status });
    });
  }

  test("an error in a stream is an error", async () => {
    await withFake([broken("numerical_error")], async (baseURL) => {
      const chunks = [];
      await assert.rejects(
        async () => {
          for await (const chunk of await connect({ configuration: { baseURL }, maxRetries: 0 }).stream(QUESTION))
            chunks.push(chunk.content);
        },
        { code: "numerical_error" },
      );
      assert.equal(chunks.join(""), "Hello there");
    });
  });

  test("retries: as many as `maxRetries`, by status; `x-should-retry` is not read", async () => {
    for (const [reply, sends] of [
      [failure(503, "draining"), 2],
      [failure(500, "numerical_error", { "x-should-retry": "false" }), 2],
      [failure(400, "invalid_value"), 1],
    ]) {
      const invoke = (baseURL) =>
        assert.rejects(connect({ configuration: { baseURL }, maxRetries: 1 }).invoke(QUESTION), {
          code: reply.body.error.code,
        });
      assert.equal(await withFake([reply], invoke), sends, reply.body.error.code);
    }
  });
}
