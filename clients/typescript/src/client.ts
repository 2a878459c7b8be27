import OpenAI, { type APIPromise, type ClientOptions } from "openai";
import { address, key } from "./environment.js";
import { Jobs } from "./jobs.js";
import { Profiles } from "./profiles.js";
import type { SteeredChat, SteeredCompletions, SteeredResponses } from "./steered.js";
import type { LensReply, LensRequest, Trace, VerifyReply, VerifyRequest } from "./types.js";

/**
 * The client of the `openai` package, whose methods also take Unsway's fields, and whose replies also have Unsway's keys;
 * beside it the routes that only Unsway has. Errors, retries and time limits are those of the package.
 *
 * It never reads OPENAI_* variables for an address or a key: what is meant for one service is not sent to another.
 */
export class UnswayOpenAI extends OpenAI {
  declare chat: SteeredChat;
  declare completions: SteeredCompletions;
  declare responses: SteeredResponses;
  readonly profiles = new Profiles(this);
  readonly jobs = new Jobs(this);

  /** @param options as `OpenAI` takes them; `baseURL` and `apiKey` default to UNSWAY_BASE_URL and UNSWAY_API_KEY. */
  constructor(options: ClientOptions = {}) {
    super({
      organization: null,
      project: null,
      adminAPIKey: null,
      ...options,
      baseURL: options.baseURL ?? address(),
      apiKey: options.apiKey ?? key() ?? "none",
    });
  }

  /** What every layer would say at a prompt's positions. */
  lens(body: LensRequest, options?: OpenAI.RequestOptions): APIPromise<LensReply> {
    return this.post("/steering/lens", { ...options, body });
  }

  /** Whether an answer drifted from what the early layers would have said. */
  verify(body: VerifyRequest, options?: OpenAI.RequestOptions): APIPromise<VerifyReply> {
    return this.post("/steering/verify", { ...options, body });
  }

  /** What a reply said about steering, by the reply's id, for ten minutes after its end. */
  traces(id: string, options?: OpenAI.RequestOptions): APIPromise<Trace> {
    return this.get(`/steering/traces/${encodeURIComponent(id)}`, options);
  }
}
