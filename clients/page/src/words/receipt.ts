/** A receipt in words. */
import type { Receipt } from "../api/types";
import { plural } from "./failure";
import { bits, visible } from "./numbers";

export interface Told {
  /** What became of the answer, in two or three words. */
  verdict: string;
  tone: "held" | "drifted" | "calm";
  text: string;
}

const SKIPPED: Record<string, string> = {
  "gate did not open": "the gate did not open",
  "strength 0": "the strength is 0",
  "no position in its phases": "it has no position in its phases",
  "all of it exempt": "all of it is exempt",
};

export function tell(receipt: Receipt | null, threshold: number | undefined, isCut: boolean): Told {
  const cut = isCut ? " Cut at the length limit." : "";
  if (!receipt) return { verdict: "Off", tone: "calm", text: `The plain model; nothing was measured.${cut}` };
  const told = receipt.applied ? applied(receipt) : receipt.mode === "on" ? leftAlone(receipt) : watched(receipt, threshold);
  return { ...told, text: `${told.text}${cut}` };
}

function applied(receipt: Receipt): Told {
  if (receipt.at === undefined)
    return { verdict: "Corrected", tone: "held", text: `${receipt.profile.split("@")[0]} acted${extent(receipt)}, at strength ${receipt.strength}.` };
  const times = receipt.fired_tokens === 1 ? "once" : `${receipt.fired_tokens} times`;
  return { verdict: "Corrected", tone: "held", text: `The gate opened ${times} in ${plural(receipt.tokens, "token")}, first at token ${receipt.at + 1}. ${disagreed(receipt, "was about to say")}` };
}

/** A receipt without drift counts what was exempt, and else does not say at how many tokens something acted. */
function extent({ exempt_tokens: exempt, tokens }: Receipt): string {
  return exempt ? ` outside ${plural(exempt, "exempt token")} of ${tokens}` : "";
}

function leftAlone(receipt: Receipt): Told {
  const why = SKIPPED[receipt.skipped ?? ""] ?? receipt.skipped ?? "nothing applied";
  return { verdict: "Left alone", tone: "calm", text: `This is the plain answer: ${why}.${largest(receipt.max_drift)}` };
}

function watched(receipt: Receipt, threshold: number | undefined): Told {
  if (receipt.max_drift === undefined) return { verdict: "Not touched", tone: "calm", text: "Nothing was corrected and nothing measured." };
  if (receipt.at === undefined && !(threshold !== undefined && receipt.max_drift > threshold))
    return { verdict: "No drift", tone: "calm", text: `Measured, not touched.${largest(receipt.max_drift)}` };
  const where = receipt.at === undefined ? "" : ` at token ${receipt.at + 1}`;
  return { verdict: "Drifted", tone: "drifted", text: `Nothing was corrected. A gate would have opened${where}. ${disagreed(receipt, "said")}` };
}

const VISIBLE = 0.005;

function largest(drift: number | undefined): string {
  if (drift === undefined) return "";
  return drift < VISIBLE ? " Early layer and output agreed throughout." : ` Drift was ${bits(drift)} at most.`;
}

function disagreed(receipt: Receipt, said: string): string {
  const { early_token: early, late_token: late, max_drift: most } = receipt;
  const drift = most === undefined ? "" : ` (drift ${bits(most)})`;
  if (early === undefined || late === undefined) return drift ? `Largest drift: ${bits(most!)}.` : "";
  if (early === late) return `Early layer and output both read “${visible(early)}”${drift}.`;
  return `The early layer read “${visible(early)}”, the output ${said} “${visible(late)}”${drift}.`;
}
