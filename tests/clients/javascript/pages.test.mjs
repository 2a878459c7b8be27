/** docs/use-from, but for programs that use our own client: these are tested in its folder. */

import path from "node:path";
import { fileURLToPath } from "node:url";
import { testPages } from "./snippets.mjs";

const without = (program) => !/from "unsway/.test(program);
const here = path.dirname(fileURLToPath(import.meta.url));
testPages(here, { "openai-node.md": without, "ai-sdk.md": without, "langchain-js.md": without });
