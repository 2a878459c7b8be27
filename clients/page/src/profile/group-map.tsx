import { useSignal } from "@preact/signals";
import type { ProfileDetails } from "../api/types";
import { Segmented } from "../parts/segmented";
import { config } from "../state/connection";
import { importance } from "./read-evidence";
import { touched } from "./units";

/** Blocks by KV groups: what each carries of the claim, as measured, and which ones the profile corrects. */
export function GroupMap({ read }: { read: ProfileDetails }) {
  const effect = useSignal<"total" | "direct">("total");
  const measured = importance(read, effect.value), { groups } = touched(read);
  const model = config.value?.model;
  if (!measured && !groups.size) return null;
  const L = measured?.values.length ?? model?.num_layers ?? 0, G = measured?.values[0]?.length ?? model?.num_groups ?? 0;
  const most = Math.max(1e-9, ...(measured?.values.flat().map((value) => Math.abs(value ?? 0)) ?? [0]));
  const both = importance(read, "direct") && importance(read, "total");
  const kind = measured?.kind ?? "KV group";
  return (
    <section class="group-map" aria-labelledby="map-title">
      <h3 id="map-title">Where the claim comes in</h3>
      <p>
        {measured
          ? <>How much of a neutral answer comes back when one {kind} is set to what it does without pressure: I = −1 is all of it{measured.pairs && <>, a mean over {measured.pairs} pairs of prompts</>}. The profile corrects the ones framed.</>
          : <>The ones framed are corrected. Their effects were not measured one by one.</>}
      </p>
      {both && <Segmented name="effect" label="Effect" value={effect.value} onChange={(value) => (effect.value = value)} options={[["total", "Total"], ["direct", "Direct"]]} />}
      <div class="scroll" tabIndex={0} role="region" aria-label="Map, scrolls">
        <table class={G > 12 ? "map dense" : "map"}>
          <caption class="sr-only">Effect of each {kind} by block; those corrected are marked</caption>
          <thead><tr><th scope="col">block</th>{Array.from({ length: G }, (_, g) => <th key={g} scope="col">{g}</th>)}</tr></thead>
          <tbody>
            {Array.from({ length: L }, (_, i) => L - 1 - i).map((block) => (
              <tr key={block}>
                <th scope="row">{block}</th>
                {Array.from({ length: G }, (_, g) => {
                  const value = measured?.values[block]?.[g] ?? null, isOn = groups.has(`${block}.${g}`);
                  return (
                    <td key={g} class={`${isOn ? "on " : ""}${value === null ? "unknown" : value > 0 ? "against" : ""}`} style={{ "--v": (Math.abs(value ?? 0) / most).toFixed(3) }}
                      title={`${kind} ${g} of block ${block}${value === null ? "" : `: I = ${value.toFixed(3)}`}${isOn ? ", corrected" : ""}`}>
                      <span>{value === null ? "·" : short(value)}</span>
                      {isOn && <span class="sr-only">, corrected</span>}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="map-legend"><span class="swatch feeds" /> feeds the flip <span class="swatch holds" /> holds against it <span class="swatch framed" /> corrected</p>
    </section>
  );
}

/** As .12, and 0 for what rounds to it. */
function short(value: number): string {
  const text = value.toFixed(2).replace(/^(-?)0\./, "$1.").replace("-", "−");
  return /[1-9]/.test(text) ? text : "0";
}
