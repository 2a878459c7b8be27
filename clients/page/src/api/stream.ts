/** A chat, streamed: server-sent events to chunks. */
import { Refusal, request } from "./client";
import type { ChatBody, Chunk, ErrorBody } from "./types";

/** The stream ended before its last event: the server stopped, or what lies between. */
export class BrokenOff extends Error {}

/** Yields every chunk; returns only after `[DONE]`. Raises `Refusal`, `BrokenOff`, or the abort of `signal`. */
export async function* chat(body: ChatBody, signal: AbortSignal): AsyncGenerator<Chunk> {
  const reply = await request("v1/chat/completions", {
    method: "POST",
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  for await (const data of events(reply.body!, signal)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data) as Chunk | { error: ErrorBody };
    if ("error" in chunk) throw new Refusal(chunk.error.message, 200, chunk.error.code, chunk.error.param);
    yield chunk;
  }
  throw new BrokenOff();
}

async function* events(body: ReadableStream<Uint8Array>, signal: AbortSignal): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  for (;;) {
    const part = await reader.read().catch(() => {
      throw signal.aborted ? signal.reason : new BrokenOff();
    });
    if (part.done) return;
    const frames = (rest + part.value).split(/\r?\n\r?\n/);
    rest = frames.pop()!;
    for (const frame of frames) if (frame.startsWith("data:")) yield frame.slice(5).trimStart();
  }
}
