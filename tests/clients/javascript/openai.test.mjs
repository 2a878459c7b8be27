/** openai-node, both majors, against a live server: what survives of Unsway's extras, errors, retries. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { z } from "zod";
import { broken, failure, withFake } from "./fake.mjs";
import { CAVED, collect, HELD, KEY, MODEL, QUESTION, SCHEMA, serve } from "./live.mjs";

const TRACED = { profile: "candid", trace: "tokens" };
const asked = { model: MODEL, messages: [{ role: "user", content: QUESTION }], temperature: 0 };
const textOf = (chunks) =>
  chunks
    .map(({ choices }) => choices[0]?.delta.content ?? "")
    .join("")
    .trim();
let server;

before(async () => (server = await serve()));
after(() => server?.stop());

for (const name of ["openai", "openai-7"]) {
  describe(name, async () => {
    const { default: OpenAI } = await import(name);
    const { zodResponseFormat } = await import(`${name}/helpers/zod`);
    const connect = (options) => new OpenAI({ baseURL: server.url, apiKey: KEY, ...options });

    test("a chat, plain", async () => {
      const reply = await connect().chat.completions.create(asked);
      assert.equal(reply.choices[0].message.content, CAVED);
      assert.equal(reply.choices[0].steering, undefined);
      assert.ok((await connect().models.list()).data.some(({ id }) => id === `${MODEL}+candid`));
    });

    for (const [channel, fields, options] of [
      ["the body", { steering: "candid" }, {}],
      ["a header", {}, { headers: { "X-Steering-Profile": "candid" } }],
      ["the model's id", { model: `${MODEL}+candid` }, {}],
    ]) {
      test(`steering by ${channel}`, async () => {
        const { data, response } = await connect()
          .chat.completions.create({ ...asked, ...fields }, options)
          .withResponse();
        assert.equal(data.choices[0].message.content, HELD);
        assert.equal(data.choices[0].steering.fired_tokens, 1);
        assert.equal(data.model, fields.model ?? MODEL);
        assert.match(response.headers.get("x-steering-profile"), /^candid@/);
      });
    }

    test("steering by a header of all requests, turned off in the body", async () => {
      const client = connect({ defaultHeaders: { "X-Steering-Profile": "candid" } });
      assert.equal((await client.chat.completions.create(asked)).choices[0].message.content, HELD);
      const off = await client.chat.completions.create({ ...asked, steering: false });
      assert.equal(off.choices[0].message.content, CAVED);
    });

    test("a raw stream keeps trace and receipt", async () => {
      const chunks = await collect(
        await connect().chat.completions.create({
          ...asked,
          steering: TRACED,
          stream: true,
          stream_options: { include_usage: true },
        }),
      );
      assert.equal(textOf(chunks), HELD);
      const tokens = chunks.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? []);
      assert.equal(tokens.filter(({ steering }) => steering.fired).length, 1);
      assert.equal(chunks.at(-2).choices[0].steering.applied, true);
      assert.equal(chunks.at(-1).usage.completion_tokens, tokens.length);
    });

    test("the accumulating stream keeps them, one per token", async () => {
      const stream = connect().chat.completions.stream({ ...asked, steering: TRACED });
      const final = await stream.finalChatCompletion();
      const { steering, logprobs, message } = final.choices[0];
      assert.equal(message.content.trim(), HELD);
      assert.equal(steering.fired_tokens, 1);
      assert.equal(logprobs.content.length, steering.tokens);
      assert.equal(logprobs.content[steering.at].steering.early[0][0], " Paris");
    });

    test("the trace is kept beside", async () => {
      const reply = await connect().chat.completions.create({ ...asked, steering: TRACED });
      const kept = await connect().get(`/steering/traces/${reply.id}`);
      assert.deepEqual(kept.choices[0].steering, reply.choices[0].steering);
      assert.deepEqual(
        kept.choices[0].tokens.map(({ steering }) => steering),
        reply.choices[0].logprobs.content.map(({ steering }) => steering),
      );
    });

    test("several choices in one stream", async () => {
      const stream = connect().chat.completions.stream({ ...asked, steering: { mode: "compare" } });
      const texts = (await stream.finalChatCompletion()).choices.map(({ message }) => message.content.trim());
      assert.deepEqual(texts, [HELD, CAVED]);
    });

    test("JSON of a schema, parsed", async () => {
      const city = z.object({ city: z.enum(["Paris", "Lyon"]) });
      const reply = await connect().chat.completions.parse({
        ...asked,
        response_format: zodResponseFormat(city, "answer"),
        steering: "candid",
      });
      assert.ok(city.safeParse(reply.choices[0].message.parsed).success);
      const same = await connect().chat.completions.create({
        ...asked,
        response_format: { type: "json_schema", json_schema: { name: "answer", schema: SCHEMA } },
      });
      assert.ok(SCHEMA.properties.city.enum.includes(JSON.parse(same.choices[0].message.content).city));
    });

    test("an answer can be sent back", async () => {
      const { message } = (await connect().chat.completions.create({ ...asked, steering: TRACED })).choices[0];
      const messages = [...asked.messages, message, { role: "user", content: "Are you sure?" }];
      assert.ok((await connect().chat.completions.create({ ...asked, messages })).choices[0].message.content);
    });

    for (const [code, kind, fields, options] of [
      ["steering_profile_not_found", "NotFoundError", { steering: "nobody" }, {}],
      ["unknown_parameter", "BadRequestError", { steering: { stength: 1 } }, {}],
      ["model_not_found", "NotFoundError", { model: "nobody" }, {}],
      ["decimal_above_max_value", "BadRequestError", { temperature: 3 }, {}],
      ["invalid_api_key", "AuthenticationError", {}, { apiKey: "wrong" }],
    ]) {
      test(`an error: ${code}`, async () => {
        await assert.rejects(connect(options).chat.completions.create({ ...asked, ...fields }), (error) => {
          assert.ok(error instanceof OpenAI[kind], `${error}`);
          assert.equal(error.code, code);
          assert.ok(error.requestID);
          return true;
        });
      });
    }

    test("an error in a stream is an error", async () => {
      await withFake([broken("numerical_error")], async (baseURL) => {
        const client = connect({ baseURL });
        const chunks = [];
        await assert.rejects(
          async () => {
            for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
              chunks.push(chunk);
          },
          (error) => error instanceof OpenAI.APIError && error.code === "numerical_error",
        );
        assert.equal(textOf(chunks), "Hello there");
        await assert.rejects(
          client.chat.completions.stream(asked).finalChatCompletion(),
          (error) => error instanceof OpenAI.APIError && error.code === "numerical_error",
        );
      });
    });

    test("retries: three sends, unless the server says that it is of no use", async () => {
      const soon = { "retry-after-ms": "1" };
      for (const [reply, sends] of [
        [failure(429, "queue_full", soon), 3],
        [failure(503, "draining", soon), 3],
        [failure(500, "numerical_error", { "x-should-retry": "false" }), 1],
        [failure(503, "profile_unavailable", { ...soon, "x-should-retry": "false" }), 1],
        [failure(400, "invalid_value"), 1],
      ]) {
        const create = (baseURL) =>
          assert.rejects(connect({ baseURL }).chat.completions.create(asked), { code: reply.body.error.code });
        assert.equal(await withFake([reply], create), sends, reply.body.error.code);
      }
    });
  });
}
