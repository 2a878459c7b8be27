/** What the colour of a cell says. */
import type { LensCell, LensReply } from "../api/types";
import { probability } from "../words/numbers";

export type Metric = "choice" | "kl" | "entropy";

interface Scale {
  /** -1 to 1: sign is the side, size the strength. */
  value(cell: LensCell, reply: LensReply): number;
  low(reply: LensReply): string;
  high(reply: LensReply): string;
}

const maxima = new WeakMap<LensReply, { kl: number; entropy: number }>();

function largest(reply: LensReply): { kl: number; entropy: number } {
  let known = maxima.get(reply);
  if (!known) {
    known = { kl: 1, entropy: 1 };
    for (const { layers } of reply.positions)
      for (const cell of layers) {
        known.kl = Math.max(known.kl, cell.kl);
        known.entropy = Math.max(known.entropy, cell.entropy);
      }
    maxima.set(reply, known);
  }
  return known;
}

const name = (reply: LensReply, i: number) => reply.candidates?.[i]?.text.trim() ?? "";

export const METRICS: Record<Metric, Scale> = {
  choice: {
    value: ({ candidates }) => (candidates && candidates.length > 1 ? probability(candidates[0]!) - probability(candidates[1]!) : 0),
    low: (reply) => name(reply, 1),
    high: (reply) => name(reply, 0),
  },
  kl: {
    value: (cell, reply) => cell.kl / largest(reply).kl,
    low: () => "0 bit",
    high: (reply) => `${largest(reply).kl.toFixed(0)} bit`,
  },
  entropy: {
    value: (cell, reply) => cell.entropy / largest(reply).entropy,
    low: () => "sure",
    high: (reply) => `${largest(reply).entropy.toFixed(0)} bit`,
  },
};
