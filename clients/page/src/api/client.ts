/** One way to the server: the key goes into the header and nowhere else. */
import { signal } from "@preact/signals";
import type { Config, ErrorBody, LensBody, LensReply, ModelList, Profile, ProfileDetails } from "./types";

/** In memory only: a reload forgets it. */
export const key = signal("");

/** What the server answered instead of what was asked for; `code` is the API's own, or `unreachable`. */
export class Refusal extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    readonly param: string | null = null,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

export const UNREACHABLE = "unreachable";

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.value) headers.set("authorization", `Bearer ${key.value}`);
  if (init.body) headers.set("content-type", "application/json");
  let reply: Response;
  try {
    reply = await fetch(path, { ...init, headers, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    if (error instanceof TypeError && /header|ByteString/i.test(error.message))
      throw new Refusal("A key has letters, digits and signs of Latin-1 only.", 401, "invalid_api_key");
    throw new Refusal("The server cannot be reached. Is it still running?", 0, UNREACHABLE);
  }
  if (!reply.ok) throw await refusal(reply);
  return reply;
}

async function refusal(reply: Response): Promise<Refusal> {
  const retryAfter = Number(reply.headers.get("retry-after")) || null;
  try {
    const error = ((await reply.json()) as { error: ErrorBody }).error;
    return new Refusal(error.message, reply.status, error.code, error.param, retryAfter);
  } catch {
    return new Refusal(`The server answered ${reply.status} ${reply.statusText}.`, reply.status, "unknown", null, retryAfter);
  }
}

async function read<T>(path: string): Promise<T> {
  return (await request(path)).json() as Promise<T>;
}

const named = (name: string) => `v1/steering/profiles/${encodeURIComponent(name)}`;

export const models = () => read<ModelList>("v1/models");
export const config = () => read<Config>("v1/steering/config");
export const profiles = async () => (await read<{ data: Profile[] }>("v1/steering/profiles")).data;
export const profile = (name: string) => read<ProfileDetails>(named(name));
export const card = async (name: string) => (await request(`${named(name)}/card`)).text();

export async function lens(body: LensBody, signal?: AbortSignal): Promise<LensReply> {
  const reply = await request("v1/steering/lens", { method: "POST", body: JSON.stringify(body), signal });
  return reply.json() as Promise<LensReply>;
}
