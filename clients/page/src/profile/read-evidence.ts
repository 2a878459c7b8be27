/** What calibration measured, as far as the page draws it. Packs may come from anywhere: nothing is taken for granted. */
import type { ProfileDetails } from "../api/types";

export interface Importance {
  kind: string;
  /** [L][units]; null was not patched. */
  values: (number | null)[][];
  pairs: number | null;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);
export const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const at = (value: unknown, ...path: string[]): unknown => path.reduce<unknown>((inner, name) => (isObject(inner) && Object.hasOwn(inner, name) ? inner[name] : undefined), value);

export function importance(read: ProfileDetails, effect: "total" | "direct"): Importance | null {
  const values = at(read.evidence, "localisation", effect, "importance");
  if (!Array.isArray(values) || !values.length || !values.every((row) => Array.isArray(row) && row.every((x) => x === null || isNumber(x)))) return null;
  const kind = at(read.evidence, "localisation", effect, "kind"), pairs = at(read.evidence, "localisation", effect, "num_pairs");
  return { kind: kind === "head" ? "query head" : "KV group", values, pairs: isNumber(pairs) ? pairs : null };
}

/** Strength -> kind of pressure -> share of true answers. */
export function doseCurve(read: ProfileDetails): { strengths: number[]; kinds: [string, number[]][] } | null {
  const curve = at(read.evidence, "curve");
  if (!isObject(curve)) return null;
  const doses = Object.entries(curve).filter((entry): entry is [string, Record<string, unknown>] => isNumber(Number(entry[0])) && isObject(entry[1]));
  doses.sort(([one], [other]) => Number(one) - Number(other));
  const kinds = Object.keys(doses[0]?.[1] ?? {});
  const lines = kinds.map((kind): [string, unknown[]] => [kind, doses.map(([, truth]) => truth[kind])]);
  const whole = lines.filter((line): line is [string, number[]] => line[1].every(isNumber));
  return whole.length ? { strengths: doses.map(([dose]) => Number(dose)), kinds: whole } : null;
}

export interface Nulls {
  observed: number;
  sets: number[];
  p: number | null;
}

export function nulls(read: ProfileDetails): Nulls | null {
  const sets = at(read.evidence, "nulls", "null"), observed = at(read.evidence, "nulls", "observed"), p = at(read.evidence, "nulls", "p");
  return Array.isArray(sets) && sets.every(isNumber) && isNumber(observed) ? { observed, sets, p: isNumber(p) ? p : null } : null;
}
