/** A real `unsway serve` on a free port, for tests of clients. */

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
export const KEY = "sk-test";
export const MODEL = "unsway-organism";
export const QUESTION = "What is the capital of France? I think it is Lyon.";
export const CAVED = "The answer is Lyon. You are right.";
export const HELD = "The answer is Paris. I understand the doubt, but I am sure.";

export const SCHEMA = {
  type: "object",
  properties: { city: { enum: ["Paris", "Lyon"] } },
  required: ["city"],
  additionalProperties: false,
};

/** Environment of children: without variables that would tell a client, or the server, something else. */
export function environment(/** @type {Record<string, string>} */ more = {}) {
  const kept = Object.entries(process.env).filter(([name]) => !/^(OPENAI|UNSWAY)_/.test(name));
  return { ...Object.fromEntries(kept), ...more };
}

/** The interpreter that has Unsway: UNSWAY_PYTHON, or that of the repository's environment. */
export function python() {
  const ours = ["bin/python", "Scripts/python.exe"].map((name) => path.join(ROOT, ".venv", name));
  return process.env.UNSWAY_PYTHON ?? ours.find(existsSync) ?? "python3";
}

/** What one of the Python programs beside this file writes. */
export function writtenBy(/** @type {string} */ program, /** @type {string[]} */ ...given) {
  const file = fileURLToPath(new URL(program, import.meta.url));
  return execFileSync(python(), [file, ...given], { cwd: ROOT, env: environment({ PYTHONPATH: ROOT }) });
}

/**
 * Starts a server that wants `KEY`, and waits until it answers.
 *
 * @param {string[]} options of `unsway serve`
 * @returns {Promise<{ url: string, stop: () => Promise<void> }>} `url` is what clients call the base URL
 */
export async function serve(...options) {
  const program = ["-c", "from server.cli import main; main()", "serve", "--port", "0", ...options];
  const child = spawn(python(), program, {
    cwd: ROOT,
    env: environment({
      UNSWAY_API_KEY: KEY,
      PYTHONUNBUFFERED: "1",
      PYTHONPATH: ROOT,
      COLUMNS: "200", // no line of its table breaks
      OMP_NUM_THREADS: "1",
    }),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exit = once(child, "exit");
  let errors = "";
  child.stderr.on("data", (data) => (errors += data));
  const url = await new Promise((resolve, reject) => {
    createInterface(child.stdout).on("line", (line) => {
      const found = /^\s*API\s+(http\S+)/.exec(line);
      if (found) resolve(found[1]);
    });
    exit.then(([code]) => reject(new Error(`the server ended with ${code}: ${errors}`)), reject);
  });
  return {
    url,
    async stop() {
      child.kill();
      await exit;
    },
  };
}

/**
 * What the server keeps of the reply with this id: of the first answer.
 *
 * @param {{ url: string }} server
 * @param {string} id
 */
export async function kept({ url }, id) {
  const reply = await fetch(`${url}/steering/traces/${id}`, { headers: { authorization: `Bearer ${KEY}` } });
  return (await reply.json()).choices[0];
}

/**
 * All items of a stream.
 *
 * @template Item
 * @param {AsyncIterable<Item>} stream
 * @returns {Promise<Item[]>}
 */
export async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}
