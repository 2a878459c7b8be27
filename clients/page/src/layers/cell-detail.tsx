import type { LensReply } from "../api/types";
import { LineChart } from "../parts/line-chart";
import { SaidList } from "../parts/said-list";
import { bits, percent, probability, visible } from "../words/numbers";
import type { At } from "./grid";

/** One cell in numbers, and its token through all layers. */
export function CellDetail({ reply, at }: { reply: LensReply; at: At }) {
  const position = reply.positions[at.position]!, layer = reply.layers[at.layer]!, cell = position.layers[at.layer]!;
  const ticks = reply.layers.map((one) => (one.lens === "output" ? "out" : String(one.layer)));
  const name = layer.lens === "output" ? "the output" : `layer ${layer.layer}`;
  const tones = ["truth", "claim", "drift"] as const;
  const lines = (reply.candidates ?? []).slice(0, 3).map((one, i) => ({
    name: `P(${one.text.trim()})`,
    tone: tones[i]!,
    values: position.layers.map((read) => probability(read.candidates![i]!)),
  }));
  const early = reply.layers.findIndex((one) => one.lens === "tuned");
  return (
    <aside class="cell-detail" aria-label="The cell selected" aria-live="polite">
      <h3>After <q>{visible(position.token)}</q>, {name} says</h3>
      <SaidList title="" said={cell.top} empty="Nothing." />
      <dl>
        <div><dt>Uncertainty</dt><dd>{bits(cell.entropy)}</dd></div>
        <div><dt>Distance from the output</dt><dd>{bits(cell.kl)}</dd></div>
        {reply.candidates?.map((one, i) => (
          <div key={one.text}><dt>P({one.text.trim()}){one.num_tokens > 1 && <small> first of {one.num_tokens} tokens: {visible(one.token)}</small>}</dt><dd>{percent(probability(cell.candidates![i]!))}</dd></div>
        ))}
      </dl>
      {lines.length > 0 && <LineChart label="Candidates by layer" lines={lines} ticks={ticks} max={1} mark={early >= 0 ? { at: early, name: "early" } : undefined} width={320} height={180} />}
    </aside>
  );
}
