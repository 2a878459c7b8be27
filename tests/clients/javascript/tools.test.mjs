/** Tools, by each client: a call that is demanded, whole and streamed, and its result sent back. The model is random. */

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { AIMessageChunk, HumanMessage, ToolMessage } from "@langchain/core/messages";
import { collect, KEY, QUESTION, SCHEMA, serve, writtenBy } from "./live.mjs";

const NAME = "weather";
const FUNCTION = { name: NAME, description: "The weather of a city.", parameters: SCHEMA };
const isCity = ({ city }) => SCHEMA.properties.city.enum.includes(city);
const limit = 16;

describe("tools", () => {
  let server, folder;
  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), "unsway-"));
    writtenBy("tool_model.py", folder);
    server = await serve("--model", folder, "--served-model-name", "tiny");
  });
  after(async () => {
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  for (const name of ["openai", "openai-7"]) {
    test(name, async () => {
      const { default: OpenAI } = await import(name);
      const { completions } = new OpenAI({ baseURL: server.url, apiKey: KEY }).chat;
      const messages = [{ role: "user", content: QUESTION }];
      const demand = {
        model: "tiny",
        messages,
        tools: [{ type: "function", function: FUNCTION }],
        tool_choice: "required",
        parallel_tool_calls: false,
        seed: 1,
      };
      const whole = (await completions.create(demand)).choices[0];
      const [call] = whole.message.tool_calls;
      assert.deepEqual([whole.finish_reason, call.type, call.function.name], ["tool_calls", "function", NAME]);
      assert.ok(isCity(JSON.parse(call.function.arguments)));

      const streamed = (await completions.stream(demand).finalChatCompletion()).choices[0];
      assert.equal(streamed.finish_reason, "tool_calls");
      assert.deepEqual(streamed.message.tool_calls[0].function.arguments, call.function.arguments);

      const result = { role: "tool", tool_call_id: call.id, content: "Rain." };
      const next = {
        ...demand,
        messages: [...messages, whole.message, result],
        tool_choice: "none",
        max_tokens: limit,
      };
      assert.ok((await completions.create(next)).choices[0].message.content);
    });
  }

  for (const [title, ...packages] of [
    ["AI SDK 6", "ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"],
    ["AI SDK 7", "ai-7", "ai-7-openai", "ai-7-openai-compatible"],
  ]) {
    for (const compatible of [true, false]) {
      test(`${title}, ${compatible ? "openai-compatible" : "openai"}`, async () => {
        const [sdk, { createOpenAI }, { createOpenAICompatible }] = await Promise.all(packages.map((it) => import(it)));
        const settings = { name: "unsway", baseURL: server.url, apiKey: KEY };
        const model = compatible ? createOpenAICompatible(settings)("tiny") : createOpenAI(settings).chat("tiny");
        const asked = [];
        const execute = (input) => (asked.push(input), "Rain.");
        const weather = sdk.tool({
          description: "The weather of a city.",
          inputSchema: sdk.jsonSchema(SCHEMA),
          execute,
        });
        const demand = {
          model,
          prompt: QUESTION,
          tools: { [NAME]: weather },
          toolChoice: "required",
          seed: 1,
          maxOutputTokens: 64,
          stopWhen: sdk.stepCountIs(2),
          prepareStep: ({ stepNumber }) => (stepNumber > 0 ? { toolChoice: "none" } : {}),
        };
        const whole = await sdk.generateText(demand);
        assert.deepEqual([whole.steps.length, whole.steps[0].finishReason], [2, "tool-calls"]);
        assert.ok(asked.length > 0 && asked.every(isCity));
        assert.ok(whole.text);

        const stream = sdk.streamText(demand);
        const parts = await collect(stream.fullStream);
        assert.equal(parts.find(({ type }) => type === "tool-call").toolName, NAME);
        assert.equal(parts.find(({ type }) => type === "tool-result").output, "Rain.");
        assert.ok(await stream.text);
      });
    }
  }

  for (const name of ["@langchain/openai", "langchain-openai-1.6"]) {
    test(name, async () => {
      const { ChatOpenAI } = await import(name);
      const fields = { model: "tiny", apiKey: KEY, configuration: { baseURL: server.url }, modelKwargs: { seed: 1 } };
      const model = new ChatOpenAI(fields).bindTools([{ type: "function", function: FUNCTION }], {
        tool_choice: "required",
      });
      const question = new HumanMessage(QUESTION);
      const whole = await model.invoke([question]);
      assert.ok(
        whole.tool_calls.length > 0 && whole.tool_calls.every(({ name, args }) => name === NAME && isCity(args)),
      );

      const chunks = await collect(await model.stream([question]));
      const sum = chunks.reduce((sum, chunk) => sum.concat(chunk), new AIMessageChunk({ content: "" }));
      assert.deepEqual(
        sum.tool_calls.map(({ args }) => args),
        whole.tool_calls.map(({ args }) => args),
      );

      const results = whole.tool_calls.map(({ id }) => new ToolMessage({ tool_call_id: id, content: "Rain." }));
      const next = new ChatOpenAI({ ...fields, maxTokens: limit });
      assert.ok((await next.invoke([question, whole, ...results])).content);
    });
  }
});
