/** What went wrong, for people. */
import { Refusal, UNREACHABLE } from "../api/client";
import { BrokenOff } from "../api/stream";

export interface Failure {
  title: string;
  text: string;
  /** The API's own words for it: code, and the field that is at fault. */
  code?: string;
  quiet?: boolean;
}

const TITLES: Record<string, string> = {
  missing_api_key: "This server needs a key",
  invalid_api_key: "The key was not accepted",
  insufficient_scope: "This key may not do that",
  queue_full: "The queue is full",
  model_loading: "The model is still loading",
  server_shutdown: "The server is stopping",
  draining: "The server is stopping",
  engine_dead: "The engine has died",
  numerical_error: "The model's numbers went wrong",
  [UNREACHABLE]: "No connection",
};

export function describeFailure(error: unknown, tokens: number): Failure {
  const soFar = tokens ? ` What had come, ${plural(tokens, "token")}, stays.` : "";
  if (error instanceof DOMException && error.name === "AbortError")
    return { title: "Stopped", text: tokens ? `After ${plural(tokens, "token")}.` : "Before the first token.", quiet: true };
  if (error instanceof BrokenOff)
    return {
      title: "The connection broke off",
      text: `The stream ended before its last event: the server stopped, or something between it and this page.${soFar}`,
    };
  if (!(error instanceof Refusal)) return { title: "This page failed", text: String(error) };
  const again = error.retryAfter ? ` Try again in ${plural(error.retryAfter, "second")}.` : "";
  const title = TITLES[error.code] ?? (error.status >= 500 ? "The server failed" : "The request was refused");
  const where = error.param ? `${error.code} · ${error.param}` : error.code;
  return { title, text: `${error.message}${again}${soFar}`, code: error.code === UNREACHABLE ? undefined : where };
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}
