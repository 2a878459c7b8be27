import type { Said } from "../api/types";

/** A token so that it can be seen: spaces at its ends, line breaks. */
export function visible(token: string): string {
  const shown = token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍");
  const word = shown.replace(/^ /, "");
  return word.trim() ? word : "␣".repeat(Math.max(1, shown.length));
}

export const probability = (logprob: number) => Math.exp(logprob);

/** A probability in percent: never 0 or 100 where it is neither. */
export function percent(p: number): string {
  const value = 100 * p;
  if (value > 0 && value < 0.1) return "<0.1 %";
  if (value < 100 && value > 99.9) return ">99.9 %";
  return `${value.toFixed(1)} %`;
}

export const bits = (value: number) => `${value.toFixed(2)} bit`;
export const first = (list: Said[] | "steered" | undefined) => (Array.isArray(list) ? list[0]?.[0] : undefined);
