/** Where the server is, and the key to it, where a program does not say. Browsers have no environment. */

export function address(): string {
  return variable("UNSWAY_BASE_URL") ?? "http://127.0.0.1:8000/v1";
}

export function key(): string | undefined {
  return variable("UNSWAY_API_KEY");
}

function variable(name: string): string | undefined {
  return globalThis.process?.env[name];
}
