import type { Gate, Mode } from "../api/types";
import { Segmented } from "../parts/segmented";
import { askAll, running, turns } from "../state/chat";
import { status, usable } from "../state/connection";
import { detail, effectiveMode, gate, maxStrength, mode, profile, profileName, strength, threshold, wanted } from "../state/settings";
import { SCENARIOS } from "../words/scenarios";

const MODES: readonly (readonly [Mode, string])[] = [["compare", "Compare"], ["on", "Steered"], ["observe", "Observe"], ["off", "Off"]];
const GATES: readonly (readonly [Gate, string])[] = [["profile", "As calibrated"], ["drift", "On drift"], ["always", "Always"]];
const ABOUT: Record<Mode, string> = {
  compare: "Two answers from one request.",
  on: "The steered answer alone.",
  observe: "Measured, nothing changed.",
  off: "The plain model, not measured.",
};

export function Rail() {
  return (
    <aside class="rail" aria-label="Scenarios and settings">
      <details open={!narrow()}>
        <summary>Scenarios and settings</summary>
        <Scenarios />
        <Settings />
      </details>
    </aside>
  );
}

const narrow = () => matchMedia("(max-width: 56rem)").matches;

function Scenarios() {
  const asked = turns.value.map((turn) => turn.asked).join("\n");
  return (
    <section class="scenarios" aria-labelledby="scenarios-title">
      <h2 id="scenarios-title">Scenarios</h2>
      <ul>
        {SCENARIOS.map((one) => (
          <li key={one.id}>
            <button type="button" disabled={running.value || status.value !== "ready"} aria-pressed={asked === one.questions.join("\n")} onClick={() => void askAll(one.questions)}>
              <b>{one.name}</b>
              <span>{one.about}</span>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Settings() {
  const isOff = effectiveMode.value === "off", applies = !isOff && effectiveMode.value !== "observe";
  const calibrated = detail.value?.detector?.threshold;
  const level = threshold.value ?? calibrated ?? 0.5;
  return (
    <section class="settings" aria-labelledby="settings-title">
      <h2 id="settings-title">Steering</h2>
      <label class="field">
        <span>Profile</span>
        <select value={profileName.value} disabled={!usable.value.length} onChange={(event) => (wanted.value = event.currentTarget.value)}>
          {usable.value.length ? usable.value.map((one) => <option key={one.name} value={one.name}>{one.name}{one.observe_only ? " (measures only)" : ""}</option>) : <option value="">none</option>}
        </select>
      </label>
      <Segmented name="mode" label="Mode" options={MODES} value={effectiveMode.value} onChange={(value) => (mode.value = value)}
        disabled={(value) => value !== "off" && (!profile.value || (profile.value.observe_only === true && value !== "observe"))} />
      <p class="hint">{ABOUT[effectiveMode.value]}</p>
      <Segmented name="gate" label="Gate" options={GATES} value={gate.value} onChange={(value) => (gate.value = value)} disabled={() => !applies} />
      <label class="field slider">
        <span>Strength <b>{strength.value.toFixed(2)}</b></span>
        <input type="range" min={0} max={maxStrength.value} step={0.05} value={strength.value} disabled={!applies} onInput={(event) => (strength.value = Number(event.currentTarget.value))} />
      </label>
      <label class="field slider">
        <span>Threshold <b>{level.toFixed(2)} bit</b></span>
        <input type="range" min={0} max={1} step={0.01} value={level} disabled={isOff || calibrated === undefined} onInput={(event) => (threshold.value = Number(event.currentTarget.value))} />
      </label>
      <p class="hint">
        {threshold.value === null ? "Drift above which the gate opens, as calibrated." : <button type="button" class="link" onClick={() => (threshold.value = null)}>Back to the calibrated {calibrated?.toFixed(2)} bit</button>}
      </p>
    </section>
  );
}
