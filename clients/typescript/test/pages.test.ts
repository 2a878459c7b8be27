/** Programs of docs/use-from that use this client. */

import path from "node:path";
import { fileURLToPath } from "node:url";
import { testPages } from "../../../tests/clients/javascript/snippets.mjs";

const folder = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
testPages(folder, {
  "typescript.md": () => true,
  "ai-sdk.md": (program: string) => /from "unsway/.test(program),
});
