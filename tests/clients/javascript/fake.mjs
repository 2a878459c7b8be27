/** A server that says what it is told to: for errors that a real one cannot be made to give at will. */

import { once } from "node:events";
import { createServer } from "node:http";

const chunk = (/** @type {string} */ content) => ({
  id: "chatcmpl-1",
  object: "chat.completion.chunk",
  created: 1,
  model: "tiny",
  choices: [{ index: 0, delta: { role: "assistant", content }, logprobs: null, finish_reason: null }],
});

/** As Unsway tells an error. */
export function failure(
  /** @type {number} */ status,
  /** @type {string} */ code,
  /** @type {Record<string, string>} */ headers = {},
) {
  return { status, headers, body: { error: { message: `It was ${code}.`, type: "server_error", param: null, code } } };
}

/** A stream that says "Hello there" and then breaks, as Unsway tells it. */
export function broken(/** @type {string} */ code) {
  const frames = [chunk("Hello"), chunk(" there"), failure(500, code).body];
  return { status: 200, headers: { "content-type": "text/event-stream" }, frames };
}

/**
 * Runs with a server that gives these replies in turn, the last of them for ever.
 *
 * @param {(ReturnType<typeof failure> | ReturnType<typeof broken>)[]} replies
 * @param {(url: string) => Promise<unknown>} use takes the base URL
 * @returns {Promise<number>} requests that came
 */
export async function withFake(replies, use) {
  let sends = 0;
  const server = createServer((request, response) => {
    const reply = replies[Math.min(sends++, replies.length - 1)];
    request.resume();
    response.writeHead(reply.status, { "content-type": "application/json", ...reply.headers });
    if ("body" in reply) response.end(JSON.stringify(reply.body));
    else response.end(reply.frames.map((frame) => `data: ${JSON.stringify(frame)}\n\n`).join(""));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  try {
    await use(`http://127.0.0.1:${port}/v1`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
  return sends;
}
