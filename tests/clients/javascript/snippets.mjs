/** The programs of a page: each compiles, runs as it stands, and prints what the page says it does. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { environment, KEY, ROOT, serve } from "./live.mjs";

const execute = promisify(execFile);
const COMPILE = "--noEmit --strict --skipLibCheck --module nodenext --target es2022 --types node".split(" ");

/**
 * Tests the programs of pages.
 *
 * @param {string} folder that has their packages; they are written down in it for a while
 * @param {Record<string, (program: string) => boolean>} pages of docs/use-from, and which of their programs
 */
export function testPages(folder, pages) {
  const written = path.join(folder, ".snippets");
  const programs = Object.entries(pages).flatMap(([page, wanted]) => read(page).filter(({ code }) => wanted(code)));
  /** @type {Awaited<ReturnType<typeof serve>>} */
  let server;
  before(async () => {
    await mkdir(written, { recursive: true });
    server = await serve("--jobs", path.join(written, "jobs"));
    for (const { name, code } of programs) await writeFile(path.join(written, name), code);
  });
  after(async () => {
    await server?.stop();
    await rm(written, { recursive: true, force: true });
  });

  test("programs of pages compile", async () => {
    const compiler = path.join(folder, "node_modules/typescript/bin/tsc");
    const files = programs.map(({ name }) => path.join(written, name));
    await execute(process.execPath, [compiler, ...COMPILE, ...files], { cwd: folder });
  });
  for (const { name, code, printed } of programs) {
    test(`${name} prints what its page says`, async () => {
      const here = code.replaceAll("http://127.0.0.1:8000/v1", server.url).replaceAll('"none"', `"${KEY}"`);
      assert.notEqual(here, code);
      await writeFile(path.join(written, name), here);
      const run = ["--import", "tsx", path.join(written, name)];
      const { stdout } = await execute(process.execPath, run, { cwd: folder, env: environment() });
      assert.equal(stdout.trimEnd(), printed.trimEnd());
    });
  }
}

/** Programs of a page, each with what it prints. One that prints nothing is a mistake. */
function read(/** @type {string} */ page) {
  const text = readFileSync(path.join(ROOT, "docs/use-from", page), "utf-8");
  const blocks = [...text.matchAll(/^```ts\n(.*?)^```\n\n^```text\n(.*?)^```/gms)];
  assert.ok(blocks.length > 0 && blocks.length === text.match(/^```ts$/gm)?.length, page);
  const name = path.parse(page).name;
  return blocks.map(([, code = "", printed = ""], i) => ({ name: `${name}-${i + 1}.ts`, code, printed }));
}
