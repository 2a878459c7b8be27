/** A correction in words. */
import type { Correction } from "../api/types";
import { plural } from "./failure";

const EDITS: Record<string, string> = {
  Set: "set to stored values",
  Scale: "scaled",
  Shift: "shifted by a vector",
  Project: "one direction removed",
  SparseWeights: "weights changed",
  LensContrast: "early and late answer contrasted",
  LayerContrast: "layers contrasted (DoLa)",
};
const SHOWN = 8;

export function where(correction: Correction): string {
  const units = correction.units ?? [];
  if (!units.length) return correction.site;
  const byBlock = new Map<string, string[]>();
  for (const unit of units) {
    const [kind, block, index] = unit.split(".") as [string, string, string];
    const place = `${kind === "group" ? "KV group" : "neuron"}|${block}`;
    byBlock.set(place, [...(byBlock.get(place) ?? []), index]);
  }
  const parts = [...byBlock].map(([place, indices]) => {
    const [kind, block] = place.split("|");
    const many = indices.length > 1 ? "s" : "";
    const shown = indices.length > SHOWN ? plural(indices.length, kind!) : `${kind}${many} ${indices.join(", ")}`;
    return `${shown} of block ${block}`;
  });
  return parts.length > SHOWN ? `${plural(units.length, "unit")} in ${parts.length} blocks` : parts.join("; ");
}

export const what = (correction: Correction) => EDITS[correction.edit] ?? correction.edit;
