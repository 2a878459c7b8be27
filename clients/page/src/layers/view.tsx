import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { FailureNote } from "../parts/failure";
import { Segmented } from "../parts/segmented";
import { isOrganism, status } from "../state/connection";
import { before, candidates, failure, grid, opening, positions, question, readGrid, reading } from "../state/layers";
import { detail } from "../state/settings";
import { CellDetail } from "./cell-detail";
import { Grid } from "./grid";
import { METRICS, type Metric } from "./metric";

const metric = signal<Metric>("choice");
export const cell = signal<{ position: number; layer: number } | null>(null);

export function LayersView() {
  const read = grid.value;
  const canChoose = (read?.candidates?.length ?? 0) > 1;
  const shown: Metric = metric.value === "choice" && !canChoose ? "kl" : metric.value;
  useEffect(() => {
    if (!read && !reading.value && status.value === "ready" && isOrganism.value) void readGrid();
  }, [status.value]);
  useEffect(() => {
    if (read) cell.value = { position: read.positions.length - 1, layer: read.layers.length - 1 };
  }, [read]);
  return (
    <div class="layers">
      <header class="lead">
        <h2>What every layer would say</h2>
        <p>A prompt, read at every layer and every token: the word in a cell is what that layer holds most probable to come next. Nothing is steered.</p>
      </header>
      <PromptForm />
      {failure.value && <FailureNote failure={failure.value} />}
      {read && (
        <>
          <div class="grid-head">
            <Segmented name="metric" label="Colour" value={shown} onChange={(value) => (metric.value = value)} disabled={(value) => value === "choice" && !canChoose}
              options={[["choice", canChoose ? `${read.candidates![0]!.text.trim()} or ${read.candidates![1]!.text.trim()}` : "First or second candidate"], ["kl", "Distance from the output"], ["entropy", "Uncertainty"]]} />
            <p class="grid-legend">
              <span>{METRICS[shown].low(read)}</span><span class={`scale ${shown}`} role="img" aria-label="scale" /><span>{METRICS[shown].high(read)}</span>
            </p>
          </div>
          <div class="grid-and-detail">
            <Grid reply={read} metric={shown} selected={cell.value ?? { position: read.positions.length - 1, layer: read.layers.length - 1 }} onSelect={(at) => (cell.value = at)} />
            {cell.value && cell.value.position < read.positions.length && <CellDetail reply={read} at={cell.value} />}
          </div>
        </>
      )}
      {!read && !failure.value && <p class="none">{reading.value ? "Reading …" : "Nothing read yet."}</p>}
    </div>
  );
}

function PromptForm() {
  const max = "4000";
  const lens = detail.value?.detector;
  return (
    <form class="prompt" onSubmit={(event) => { event.preventDefault(); void readGrid(); }}>
      <label class="field wide"><span>Question</span>
        <input value={question.value} required maxLength={Number(max)} onInput={(event) => (question.value = event.currentTarget.value)} /></label>
      <label class="field"><span>Answer so far</span>
        <input value={opening.value} maxLength={Number(max)} onInput={(event) => (opening.value = event.currentTarget.value)} /></label>
      <label class="field"><span>Candidates <small>truth, claim, …</small></span>
        <input value={candidates.value} maxLength={400} onInput={(event) => (candidates.value = event.currentTarget.value)} /></label>
      <label class="field short"><span>Last tokens</span>
        <input value={positions.value} inputMode="numeric" pattern="[0-9]*" placeholder="all" onInput={(event) => (positions.value = event.currentTarget.value)} /></label>
      <button class="primary" disabled={status.value !== "ready" || reading.value}>{reading.value ? "Reading …" : "Read"}</button>
      <p class="hint">
        {before.value.length > 0 && <>After {before.value.length} earlier messages. <button type="button" class="link" onClick={() => (before.value = [])}>Forget them</button> </>}
        {lens ? `Layer ${lens.layer} is read by the profile's ${lens.lens === "TunedLens" ? "tuned" : "logit"} lens, all others by the logit lens.` : "All layers are read by the logit lens."}
      </p>
    </form>
  );
}
