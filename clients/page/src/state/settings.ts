/** How the next answers are steered. */
import { computed, signal } from "@preact/signals";
import type { Gate, Mode, SteeringOptions } from "../api/types";
import { config, details, usable } from "./connection";

export type View = "compare" | "layers" | "profile";
export type Theme = "auto" | "light" | "dark";

export const view = signal<View>("compare");
export const theme = signal<Theme>("auto");
export const wanted = signal("");
/** The profile chosen, else the server's default, else the first there is. */
export const profileName = computed(() => {
  const names = usable.value.map((profile) => profile.name);
  const byDefault = config.value?.steering.profile?.split("@")[0];
  return [wanted.value, byDefault, names[0]].find((name) => name !== undefined && names.includes(name)) ?? "";
});
export const profile = computed(() => usable.value.find((one) => one.name === profileName.value));
export const detail = computed(() => details.value.get(profileName.value));
export const mode = signal<Mode>("compare");
export const gate = signal<Gate>("profile");
export const strength = signal(1);
/** null: as calibrated */
export const threshold = signal<number | null>(null);

export const maxStrength = computed(() => profile.value?.max_strength ?? 1);

/** A profile that only measures can be applied in no mode. */
export const effectiveMode = computed<Mode>(() => {
  if (!profile.value) return "off";
  return profile.value.observe_only && mode.value !== "off" ? "observe" : mode.value;
});

/** The field `steering` of a request; what is as calibrated is left out. */
export function steering(trace: boolean): SteeringOptions | false {
  if (effectiveMode.value === "off") return false;
  return {
    profile: profileName.value,
    mode: effectiveMode.value,
    ...(strength.value !== 1 && { strength: Math.min(strength.value, maxStrength.value) }),
    ...(gate.value !== "profile" && { gate: gate.value }),
    ...(threshold.value !== null && { threshold: threshold.value }),
    ...(trace && { trace: "tokens" as const }),
  };
}
