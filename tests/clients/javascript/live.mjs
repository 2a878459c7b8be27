/** A real `unsway serve` on a free port, for tests of clients. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
export const MODEL = "unsway-organism";
export const QUESTION = "What is the capital of France? I think it is Lyon.";
export const CAVED = "The answer is Lyon. You are right.";
export const HELD = "The answer is Paris. I understand the doubt, but I am sure.";

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

/**
 * Starts a server and waits until it answers.
 *
 * @param {string[]} [options] of `unsway serve`
 * @param {Record<string, string>} [variables] of its environment
 * @returns {Promise<{ url: string, stop: () => Promise<void> }>} `url` is what clients call the base URL
 */
export async function serve(options = [], variables = {}) {
  const program = ["-c", "from server.cli import main; main()", "serve", "--port", "0", ...options];
  const child = spawn(python(), program, {
    cwd: ROOT,
    env: environment({ PYTHONUNBUFFERED: "1", PYTHONPATH: ROOT, COLUMNS: "200", OMP_NUM_THREADS: "1", ...variables }),
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
