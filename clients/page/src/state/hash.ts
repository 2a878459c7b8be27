/** The part of the page that can be shared: in the address, behind the #. No key, and nothing is sent because of it but
 * a built-in scenario. */
import { effect, signal } from "@preact/signals";
import type { Gate, Mode } from "../api/types";
import { scenario } from "../words/scenarios";
import { turns } from "./chat";
import * as settings from "./settings";

export interface Shared {
  scenario?: string;
  questions: string[];
}

/** Questions of a link, waiting to be sent by the user. */
export const waiting = signal<string[]>([]);
const MODES: readonly Mode[] = ["compare", "on", "observe", "off"];
const GATES: readonly Gate[] = ["profile", "drift", "always"];
const VIEWS: readonly settings.View[] = ["compare", "layers", "profile"];
const MAX_QUESTIONS = 16;
const MAX_LENGTH = 4000;

/** Takes over what a link says, as far as it makes sense. */
export function readHash(hash: string): Shared {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  const oneOf = <T extends string>(name: string, among: readonly T[], byDefault: T): T =>
    among.find((value) => value === said.get(name)) ?? byDefault;
  settings.view.value = oneOf("view", VIEWS, "compare");
  settings.mode.value = oneOf("mode", MODES, "compare");
  settings.gate.value = oneOf("gate", GATES, "profile");
  settings.wanted.value = (said.get("profile") ?? "").slice(0, 64);
  settings.strength.value = number(said.get("strength"), 0, 100) ?? 1;
  settings.threshold.value = number(said.get("threshold"), 0, 1);
  const named = scenario(said.get("scenario") ?? "");
  const questions = said.getAll("q").slice(0, MAX_QUESTIONS).map((text) => text.slice(0, MAX_LENGTH));
  return { scenario: named?.id, questions };
}

function number(text: string | null, low: number, high: number): number | null {
  const value = text === null || text.trim() === "" ? NaN : Number(text);
  return value >= low && value <= high ? value : null;
}

export function writeHash(): string {
  const said = new URLSearchParams();
  const put = (name: string, value: string | number | null, byDefault: string | number | null) => {
    if (value !== byDefault) said.set(name, String(value));
  };
  put("view", settings.view.value, "compare");
  put("profile", settings.profileName.value, "");
  put("mode", settings.mode.value, "compare");
  put("gate", settings.gate.value, "profile");
  put("strength", settings.strength.value, 1);
  put("threshold", settings.threshold.value, null);
  for (const turn of turns.value.slice(-MAX_QUESTIONS)) said.append("q", turn.asked);
  return said.toString();
}

/** Keeps the address what the page shows, without a new entry in the history for every change. */
export function followHash(): void {
  effect(() => {
    const said = writeHash();
    if (settings.profileName.value) history.replaceState(null, "", said ? `#${said}` : location.pathname);
  });
}
