/** The Responses API, by the clients that speak it: it is the default of the AI SDK's provider `openai`. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { CAVED, collect, HELD, KEY, MODEL, QUESTION, serve } from "./live.mjs";

const asked = { model: MODEL, input: QUESTION, temperature: 0 };

describe("responses", () => {
  let server;
  before(async () => (server = await serve()));
  after(() => server?.stop());

  for (const name of ["openai", "openai-7"]) {
    test(name, async () => {
      const { default: OpenAI } = await import(name);
      const { responses } = new OpenAI({ baseURL: server.url, apiKey: KEY });
      assert.equal((await responses.create(asked)).output_text.trim(), CAVED);
      const steered = await responses.create({ ...asked, steering: "candid" });
      assert.deepEqual([steered.output_text.trim(), steered.steering.fired_tokens], [HELD, 1]);
      const final = await responses.stream({ ...asked, steering: "candid" }).finalResponse();
      assert.deepEqual([final.output_text.trim(), final.steering.fired_tokens], [HELD, 1]);
      await assert.rejects(responses.create({ ...asked, steering: "nobody" }), { code: "steering_profile_not_found" });
    });
  }

  for (const [title, ...packages] of [
    ["AI SDK 6", "ai", "@ai-sdk/openai"],
    ["AI SDK 7", "ai-7", "ai-7-openai"],
  ]) {
    test(title, async () => {
      const [{ generateText, streamText }, { createOpenAI }] = await Promise.all(packages.map((name) => import(name)));
      const openai = createOpenAI({ baseURL: server.url, apiKey: KEY });
      const plain = { prompt: QUESTION, temperature: 0, model: openai(MODEL) };
      assert.equal((await generateText(plain)).text.trim(), CAVED);
      const headers = { "X-Steering-Profile": "candid" };
      for (const steered of [
        { ...plain, model: openai(`${MODEL}+candid`) },
        { ...plain, headers },
      ]) {
        assert.equal((await generateText(steered)).text.trim(), HELD);
        assert.equal((await collect(streamText(steered).textStream)).join("").trim(), HELD);
      }
    });
  }
});
