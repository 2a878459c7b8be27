/** A request as others would send it. The key is never part of it: it stands for itself in the environment. */
import type { ChatBody } from "../api/types";

export type Language = "curl" | "Python" | "TypeScript";
export const LANGUAGES: readonly Language[] = ["curl", "Python", "TypeScript"];
const KEY = "UNSWAY_API_KEY";

export function snippet(language: Language, body: ChatBody, base: string, needsKey: boolean): string {
  return { curl, Python: python, TypeScript: typescript }[language](body, base, needsKey);
}

function curl(body: ChatBody, base: string, needsKey: boolean): string {
  const auth = needsKey ? ` \\\n  -H "Authorization: Bearer $${KEY}"` : "";
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl ${base}/v1/chat/completions \\\n  -H "Content-Type: application/json"${auth} \\\n  -d '${json}'\n`;
}

function python(body: ChatBody, base: string, needsKey: boolean): string {
  const key = needsKey ? `os.environ["${KEY}"]` : '"none"';
  const { steering, ...rest } = body;
  const fields = Object.entries(rest).map(([name, value]) => `    ${name}=${literal(value, 4)},`);
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(`${base}/v1`)}, api_key=${key})
reply = client.chat.completions.create(
${fields.join("\n")}
    extra_body={"steering": ${literal(steering, 4)}},
)
for choice in reply.choices:
    print(choice.message.content)
    print(getattr(choice, "steering", None))
`;
}

function typescript(body: ChatBody, base: string, needsKey: boolean): string {
  const key = needsKey ? `process.env.${KEY}` : '"none"';
  const { steering, ...rest } = body;
  const fields = Object.entries(rest).map(([name, value]) => `  ${name}: ${indented(value, 2)},`);
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(`${base}/v1`)}, apiKey: ${key} });
const reply = await client.chat.completions.create({
${fields.join("\n")}
  // @ts-expect-error: a field that OpenAI does not have
  steering: ${indented(steering, 2)},
});
for (const choice of reply.choices) {
  console.log(choice.message.content);
  console.log("steering" in choice ? choice.steering : null);
}
`;
}

const indented = (value: unknown, by: number) => JSON.stringify(value, null, 2).replaceAll("\n", `\n${" ".repeat(by)}`);

/** JSON as Python spells it; strings are the same in both. */
function literal(value: unknown, indent: number): string {
  const pad = " ".repeat(indent);
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) {
    const items = value.map((item) => `${pad}    ${literal(item, indent + 4)},`);
    return items.length ? `[\n${items.join("\n")}\n${pad}]` : "[]";
  }
  if (typeof value === "object") {
    const items = Object.entries(value).filter(([, item]) => item !== undefined);
    return `{${items.map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, indent)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
