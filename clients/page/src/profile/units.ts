/** Which units a profile touches. */
import type { ProfileDetails } from "../api/types";

export interface Touched {
  /** "block.index" */
  groups: Set<string>;
  /** Block -> neurons. */
  neurons: Map<number, number[]>;
}

export function touched(read: ProfileDetails): Touched {
  const groups = new Set<string>(), neurons = new Map<number, number[]>();
  for (const unit of (read.corrections ?? []).flatMap((correction) => correction.units ?? [])) {
    const [kind, block, index] = unit.split(".");
    if (kind === "group") groups.add(`${block}.${index}`);
    else neurons.set(Number(block), [...(neurons.get(Number(block)) ?? []), Number(index)]);
  }
  return { groups, neurons };
}
