import { effectiveMode, profileName } from "../state/settings";

export function Legend() {
  const two = effectiveMode.value === "compare";
  return (
    <div class="legend">
      <div class={two ? "heads two" : "heads"}>
        {two ? <><h2 class="steered">Steered <span>{profileName.value}</span></h2><h2>Plain</h2></> : <h2 class={effectiveMode.value === "on" ? "steered" : ""}>{{ on: "Steered", observe: "Observed", off: "Plain" }[effectiveMode.value as "on"]}</h2>}
      </div>
      <p class="scale-line">
        <span>Drift</span><span class="num">0</span><span class="scale" role="img" aria-label="shades from 0 to 1 bit" /><span class="num">1 bit</span>
        <span class="mark-fired">gate opened</span><span class="mark-steered">corrected</span>
      </p>
    </div>
  );
}
