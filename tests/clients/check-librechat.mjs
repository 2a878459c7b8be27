/** Prints what LibreChat's own schemas make of a librechat.yaml (as JSON on stdin), and of a chat with a slider's value. */

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(`${process.argv[2]}/`);
const { configSchema, parseCompactConvo, paramDefinitionSchema } = require("librechat-data-provider");

const parsed = configSchema.strict().safeParse(JSON.parse(readFileSync(0, "utf8")));
const conversation = { endpoint: "Unsway", model: "unsway-organism", temperature: 0.5, steering_strength: 0.5 };
const slider = { key: "steering_strength", type: "number", component: "slider", range: { min: 0, max: 1, step: 0.1 } };
process.stdout.write(
  JSON.stringify({
    config: parsed.success ? parsed.data : parsed.error.issues,
    isSlider: paramDefinitionSchema.safeParse(slider).success,
    sent: parseCompactConvo({ endpoint: "Unsway", endpointType: "custom", conversation }),
  }),
);
