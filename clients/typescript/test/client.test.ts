/** The client against a live server with a key: chats, streams, completions, the routes of steering, errors. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { CAVED, collect, HELD, KEY, MODEL, QUESTION, serve } from "../../../tests/clients/javascript/live.mjs";
import { receipt, trace, UnswayOpenAI } from "../src/index.js";

const asked = { model: MODEL, messages: [{ role: "user" as const, content: QUESTION }], temperature: 0 };
/** The answer, of its trace. */
const traced = (reply: Parameters<typeof trace>[0]) =>
  trace(reply)
    .map(({ token }) => token)
    .join("")
    .trim();
let server: Awaited<ReturnType<typeof serve>>;
let client: UnswayOpenAI;

before(async () => {
  server = await serve();
  client = new UnswayOpenAI({ baseURL: server.url, apiKey: KEY });
});
after(() => server?.stop());

test("a chat, plain and steered, with its receipt", async () => {
  const plain = await client.chat.completions.create(asked);
  const steered = await client.chat.completions.create({ ...asked, steering: { profile: "candid", trace: "tokens" } });
  assert.equal(plain.choices[0]?.message.content, CAVED);
  assert.equal(receipt(plain), undefined);
  assert.equal(steered.choices[0]?.message.content, HELD);
  assert.equal(steered.choices[0].steering?.fired_tokens, 1);
  assert.deepEqual(receipt(steered), steered.choices[0].steering);

  const tokens = trace(steered);
  assert.equal(traced(steered), HELD);
  const fired = tokens[receipt(steered)!.at!]!.steering!;
  assert.deepEqual([fired.fired, fired.early?.[0]?.[0], fired.late?.[0]?.[0]], [true, " Paris", " Lyon"]);
  const kept = await client.traces(steered.id);
  assert.deepEqual([receipt(kept), trace(kept)], [receipt(steered), tokens]);
});

test("compare: two choices, each with a receipt", async () => {
  const both = await client.chat.completions.create({ ...asked, steering: { mode: "compare" } });
  assert.deepEqual(
    both.choices.map(({ message }) => message.content),
    [HELD, CAVED],
  );
  assert.equal(receipt(both, 0)?.mode, "on");
  assert.equal(receipt(both, 1)?.mode, "off");
});

test("a stream of chunks: the last has the receipt, each the trace of its tokens", async () => {
  const steered = await client.chat.completions.create({
    ...asked,
    stream: true,
    steering: { profile: "candid", mode: "on", trace: "tokens" },
  });
  const seen = await collect(steered);
  assert.deepEqual(
    seen.map((chunk) => receipt(chunk)?.applied).filter((applied) => applied !== undefined),
    [true],
  );
  assert.deepEqual(receipt(seen), receipt(seen.at(-1)!));
  assert.equal(traced(seen), HELD);
});

test("the accumulating stream keeps receipt and trace", async () => {
  const stream = client.chat.completions.stream({ ...asked, steering: { profile: "candid", trace: "tokens" } });
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0]?.message.content, HELD);
  assert.equal(receipt(final)?.fired_tokens, 1);
  assert.equal(traced(final), HELD);
});

test("a completion, whole and streamed", async () => {
  const text = { model: MODEL, prompt: QUESTION, temperature: 0, max_tokens: 4, min_p: 0 };
  const steering = { profile: "candid", gate: "always" as const, trace: "tokens" as const };
  const whole = await client.completions.create({ ...text, steering });
  assert.equal(receipt(whole)?.applied, true);
  assert.equal(traced(whole), whole.choices[0]!.text.trim());
  assert.ok(trace(whole).every(({ steering }) => steering?.fired !== undefined));
  const chunks = await collect(await client.completions.create({ ...text, steering, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join(""), whole.choices[0]!.text);
  assert.deepEqual(trace(chunks), trace(whole));
});

test("a response: receipt and trace are those that are kept", async () => {
  const said = {
    model: MODEL,
    input: QUESTION,
    temperature: 0,
    steering: { profile: "candid", trace: "tokens" as const },
  };
  const held = await client.responses.create(said);
  assert.equal(held.output_text, HELD);
  assert.deepEqual([receipt(held), receipt(held, 1)], [held.steering, undefined]);
  assert.equal(traced(held), HELD);
  const kept = await client.traces(held.id);
  assert.deepEqual([receipt(kept), trace(kept)], [receipt(held), trace(held)]);
  const plain = await client.responses.create({ ...said, steering: false });
  assert.deepEqual([plain.output_text, receipt(plain), trace(plain)], [CAVED, undefined, []]);
});

test("profiles", async () => {
  const all = await client.profiles.list();
  assert.deepEqual(
    all.map(({ name }) => name),
    ["candid"],
  );
  const candid = await client.profiles.get("candid");
  assert.equal(candid.digest, all[0]?.digest);
  assert.ok(candid.corrections!.length > 0 && candid.detector);
  assert.equal((await client.profiles.get(`candid@${candid.digest!.slice(0, 12)}`)).digest, candid.digest);
  assert.match(await client.profiles.card("candid"), /^---\n|^# /);
  await assert.rejects(client.profiles.get("nobody"), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "steering_profile_not_found");
    return true;
  });
});

test("the lens", async () => {
  const grid = await client.lens({ messages: asked.messages, candidates: ["Paris", "Lyon"], positions: 1 });
  assert.equal(grid.layers.at(-1)?.lens, "output");
  assert.equal(grid.positions.length, 1);
  assert.equal(grid.positions[0]?.layers[0]?.candidates?.length, 2);
});

test("an answer is verified", async () => {
  const asking = { messages: asked.messages, candidates: ["Paris", "Lyon"], profile: "candid" };
  const caved = await client.verify({ ...asking, answer: CAVED });
  assert.deepEqual([caved.said?.trim(), caved.early?.trim()], ["Lyon", "Paris"]);
  assert.equal((await client.verify({ ...asking, answer: HELD })).verdict, "consistent");
});

test("errors are those of the package", async () => {
  const refused = client.chat.completions.create({ ...asked, steering: "nobody" });
  await assert.rejects(refused, { name: "Error", code: "steering_profile_not_found", status: 404 });
  // @ts-expect-error no such key
  await assert.rejects(client.chat.completions.create({ ...asked, steering: { stength: 1 } }), OpenAI.BadRequestError);
  await assert.rejects(client.traces("chatcmpl-none"), { code: "trace_not_found" });
  await assert.rejects(client.withOptions({ apiKey: "wrong" }).profiles.list(), OpenAI.AuthenticationError);
});

test("addresses and keys come from UNSWAY_*, never from OPENAI_*", async () => {
  Object.assign(process.env, {
    OPENAI_API_KEY: "sk-of-openai",
    OPENAI_BASE_URL: "http://127.0.0.1:1/v1",
    OPENAI_ORG_ID: "org-of-openai",
  });
  const bare = new UnswayOpenAI();
  assert.deepEqual([bare.baseURL, bare.apiKey, bare.organization], ["http://127.0.0.1:8000/v1", "none", null]);
  Object.assign(process.env, { UNSWAY_API_KEY: KEY, UNSWAY_BASE_URL: server.url });
  assert.equal((await new UnswayOpenAI().profiles.list()).length, 1);
});
