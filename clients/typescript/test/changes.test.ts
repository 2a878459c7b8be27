/** What changes a server: profiles that are uploaded, jobs. In folders of their own. */

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { collect, KEY, MODEL, QUESTION, serve, writtenBy } from "../../../tests/clients/javascript/live.mjs";
import { receipt, UnswayOpenAI } from "../src/index.js";

function started(...flags: string[]): { client: UnswayOpenAI } {
  const here = {} as { client: UnswayOpenAI };
  let folder: string;
  let server: Awaited<ReturnType<typeof serve>>;
  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), "unsway-"));
    server = await serve(...flags.flatMap((flag) => [flag, path.join(folder, flag.slice(2))]));
    here.client = new UnswayOpenAI({ baseURL: server.url, apiKey: KEY });
  });
  after(async () => {
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });
  return here;
}

describe("profiles go up and down", () => {
  const here = started("--uploads");
  let pack: Blob;
  let digest: string;

  test("one comes in one file, and one file makes one", async () => {
    const { profiles, chat } = here.client;
    pack = new Blob([new Uint8Array(writtenBy("steady_pack.py"))]);
    const made = await profiles.upload("steady", pack);
    assert.equal(made.name, "steady");
    digest = made.digest!;
    const messages = [{ role: "user" as const, content: QUESTION }];
    const reply = await chat.completions.create({ model: MODEL, messages, temperature: 0, steering: "steady" });
    assert.match(receipt(reply)!.profile, /^steady@/);
    const file = await (await profiles.file("steady")).arrayBuffer();
    assert.deepEqual(Buffer.from(file), Buffer.from(await pack.arrayBuffer()));
  });

  test("one that is there is replaced only by who knows what it is", async () => {
    const { profiles } = here.client;
    const bytes = new Uint8Array(await pack.arrayBuffer());
    await assert.rejects(profiles.upload("steady", bytes), { status: 409, code: "profile_exists" });
    await assert.rejects(profiles.upload("steady", bytes, { ifMatch: "0".repeat(64) }), OpenAI.APIError);
    assert.equal((await profiles.upload("steady", bytes, { ifMatch: digest })).name, "steady");
    assert.equal((await profiles.upload("steady", pack, { ifMatch: "*" })).name, "steady");
  });

  test("what is no pack is refused", async () => {
    await assert.rejects(here.client.profiles.upload("other", new Blob(["no pack"])), OpenAI.BadRequestError);
  });

  test("it is deleted", async () => {
    const { profiles } = here.client;
    await assert.rejects(profiles.delete("steady", { ifMatch: "0".repeat(64) }), { code: "etag_mismatch" });
    await profiles.delete("steady", { ifMatch: digest });
    await assert.rejects(profiles.get("steady"), OpenAI.NotFoundError);
    await assert.rejects(profiles.delete("candid"), { code: "profile_in_use" });
  });
});

describe("jobs", () => {
  const here = started("--jobs");

  test("one is started, says what it does, is cancelled and forgotten", async () => {
    const { jobs } = here.client;
    const job = await jobs.create({ kind: "calibrate", profile: "steady", quick: true });
    await assert.rejects(jobs.create({ kind: "calibrate", profile: "steady", quick: true }), OpenAI.ConflictError);
    assert.deepEqual(
      (await jobs.list()).map(({ id }) => id),
      [job.id],
    );

    const said = [];
    for await (const event of jobs.events(job.id)) {
      said.push(event.event);
      if (event.event === "state") assert.equal((await jobs.cancel(job.id)).object, "steering.job");
      if (event.event === "end") assert.equal(event.data.state, "cancelled");
    }
    assert.deepEqual([said[0], said.at(-1)], ["state", "end"]);
    assert.equal((await jobs.get(job.id)).state, "cancelled");

    const again = await collect(jobs.events(job.id));
    assert.equal(again.at(-1)?.event, "end");
    assert.ok("deleted" in (await jobs.cancel(job.id)));
    await assert.rejects(jobs.get(job.id), { code: "job_not_found" });
    await assert.rejects(collect(jobs.events(job.id)), { code: "job_not_found" });
  });
});
