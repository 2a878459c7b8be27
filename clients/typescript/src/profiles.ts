import type OpenAI from "openai";
import type { APIPromise } from "openai";
import type { Profile, ProfileDetails, ProfileList } from "./types.js";

const ROOT = "/steering/profiles";

/** `/v1/steering/profiles`. A name may be pinned to a pack: `candid@` and 4 or more digits of its digest. */
export class Profiles {
  constructor(private readonly client: OpenAI) {}

  /** All of them, broken ones with the reason. */
  async list(options?: OpenAI.RequestOptions): Promise<Profile[]> {
    return (await this.client.get<ProfileList>(ROOT, options)).data;
  }

  /** One, with its corrections and its evidence. */
  get(name: string, options?: OpenAI.RequestOptions): APIPromise<ProfileDetails> {
    return this.client.get(path(name), options);
  }

  /** What there is to say about it to people, in Markdown. */
  card(name: string, options?: OpenAI.RequestOptions): APIPromise<string> {
    return this.client.get(`${path(name)}/card`, options);
  }
}

function path(name: string): string {
  return `${ROOT}/${encodeURIComponent(name)}`;
}
