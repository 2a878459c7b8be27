/** What is served, and whether it can be reached. */
import { batch, computed, signal } from "@preact/signals";
import * as api from "../api/client";
import { Refusal } from "../api/client";
import { BrokenOff } from "../api/stream";
import type { Config, Profile, ProfileDetails } from "../api/types";

export type Status = "connecting" | "loading" | "ready" | "locked" | "wrong key" | "gone";

export const status = signal<Status>("connecting");
export const model = signal("");
export const config = signal<Config | null>(null);
export const profiles = signal<Profile[]>([]);
export const usable = computed(() => profiles.value.filter((profile) => !profile.broken));
export const isOrganism = computed(() => config.value?.settings["model"]?.value === "unsway-organism");

/** Details by name, as they were last read. */
export const details = signal<ReadonlyMap<string, ProfileDetails>>(new Map());

const AGAIN: Partial<Record<Status, number>> = { loading: 1500, gone: 3000 };
let timer: ReturnType<typeof setTimeout> | undefined;

export async function connect(): Promise<void> {
  clearTimeout(timer);
  try {
    const [models, settings, listed] = await Promise.all([api.models(), api.config(), api.profiles()]);
    batch(() => {
      model.value = models.data[0]!.id;
      config.value = settings;
      profiles.value = listed;
      status.value = "ready";
    });
  } catch (error) {
    noteFailure(error);
  }
}

/** An error says something about the connection, too. */
export function noteFailure(error: unknown): void {
  if (error instanceof BrokenOff) void connect(); // is anybody still there?
  if (!(error instanceof Refusal)) return;
  if (error.status === 401) status.value = error.code === "missing_api_key" ? "locked" : "wrong key";
  else if (error.code === api.UNREACHABLE) status.value = "gone";
  else if (error.status === 503 && error.code === "model_loading") status.value = "loading";
  else if (status.value === "connecting") status.value = "gone";
  const wait = AGAIN[status.value];
  clearTimeout(timer);
  if (wait) timer = setTimeout(connect, wait);
}

export async function readDetails(name: string): Promise<ProfileDetails> {
  const known = details.value.get(name);
  if (known) return known;
  const read = await api.profile(name);
  details.value = new Map(details.value).set(name, read);
  return read;
}
