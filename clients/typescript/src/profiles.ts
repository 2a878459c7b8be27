import type OpenAI from "openai";
import type { APIPromise } from "openai";
import type { Profile, ProfileDetails, ProfileList } from "./types.js";

const ROOT = "/steering/profiles";

/** Of one request; `ifMatch`: the digest that the profile must have now, or `*` for whichever. */
export type ChangeOptions = Omit<OpenAI.RequestOptions, "headers"> & {
  ifMatch?: string;
  headers?: Record<string, string>;
};

/** `/v1/steering/profiles`. A name to read may be pinned to a pack: `candid@` and 4 or more digits of its digest. */
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

  /** The whole pack in one file, as `upload` takes it: `await (await profiles.file("candid")).blob()`. */
  file(name: string, options?: OpenAI.RequestOptions): APIPromise<Response> {
    return this.client.get(`${path(name)}/file`, { ...options, __binaryResponse: true });
  }

  /** Makes a profile of a pack in one file (of node: `openAsBlob(path)`); with `ifMatch` it replaces one that is there. */
  upload(name: string, pack: Blob | ArrayBuffer | Uint8Array, options?: ChangeOptions): APIPromise<Profile> {
    const sent = conditional(options);
    const headers = { "content-type": "application/octet-stream", ...sent.headers };
    return this.client.put(path(name), { ...sent, headers, body: pack });
  }

  /** Takes an uploaded profile away; with `ifMatch` only if it has not changed. */
  delete(name: string, options?: ChangeOptions): APIPromise<void> {
    return this.client.delete(path(name), conditional(options));
  }
}

function path(name: string): string {
  return `${ROOT}/${encodeURIComponent(name)}`;
}

function conditional({ ifMatch, headers, ...options }: ChangeOptions = {}) {
  const condition = ifMatch === undefined ? {} : { "if-match": ifMatch === "*" ? "*" : `"${ifMatch}"` };
  return { ...options, headers: { ...condition, ...headers } };
}
