import { useEffect, useLayoutEffect, useState } from "preact/hooks";
import type { Said, TokenTrace } from "../api/types";
import { LineChart } from "../parts/line-chart";
import { SaidList } from "../parts/said-list";
import { profileOf, selected, thresholdOf, type Selected, type Turn } from "../state/chat";
import { openAt, readAt, type AtToken } from "../state/layers";
import { what, where } from "../words/correction";
import { describeFailure } from "../words/failure";
import { bits, percent, probability, visible } from "../words/numbers";

/** One token: what early layer and output would have said, layer by layer, and what was corrected. */
export function Inspector({ at: { turn, answer, index } }: { at: Selected }) {
  useLayoutEffect(() => document.querySelector(".token.selected")?.scrollIntoView({ block: "nearest" }), [answer, index]);
  const piece = answer.pieces[index]!;
  const at = useReading({ turn, answer, index });
  return (
    <section class="inspector" aria-label={`Token ${index + 1}: ${visible(piece.text)}`}>
      <header>
        <h3><span class="side-of">{answer.side === "steered" ? "Steered" : "Plain"} answer, token {index + 1}</span> <q>{visible(piece.text)}</q></h3>
        <p aria-live="polite">{summary(piece.trace, thresholdOf(turn), answer.side)}</p>
        <div class="tools">
          <button type="button" class="quiet" onClick={() => openAt(turn, answer, index)}>All layers here</button>
          <button type="button" class="quiet" onClick={() => (selected.value = null)} aria-label="Close the token">Close</button>
        </div>
      </header>
      <div class="readings">
        <SaidList title="Early layer" note={layerName(turn)} said={piece.trace?.early} empty={piece.trace ? "Not read." : "Nothing was measured: choose another mode than Off."} />
        <Late trace={piece.trace} />
        <Curve at={at} />
        <Corrected turn={turn} trace={piece.trace} logprob={piece.logprob} side={answer.side} />
      </div>
    </section>
  );
}

function whyNothing(trace: TokenTrace | undefined, side: string): string {
  if (side === "plain") return "Nothing: this is the plain answer.";
  return trace?.exempt ? "Nothing: it lies in a span that is exempt." : "Nothing: the gate was shut.";
}

function layerName(turn: Turn): string | undefined {
  const detector = profileOf(turn)?.detector;
  return detector && `layer ${detector.layer}, ${detector.lens === "TunedLens" ? "tuned" : "logit"} lens`;
}

function useReading({ turn, answer, index }: Selected): AtToken | Error | null {
  const [at, setAt] = useState<{ for: unknown; read: AtToken | Error } | null>(null);
  const tag = `${turn.id} ${answer.side} ${index}`;
  useEffect(() => {
    let left = false;
    const take = (read: AtToken | Error) => left || setAt({ for: tag, read });
    readAt(turn, answer, index).then(take, take);
    return () => { left = true; };
  }, [tag]);
  return at?.for === tag ? at.read : null;
}

function summary(trace: TokenTrace | undefined, gate: number | undefined, side: string): string {
  if (!trace) return "Not measured.";
  if (trace.exempt) return "Not measured: it lies in a span that is exempt.";
  const level = gate === undefined ? "" : ` (the gate opens above ${gate.toFixed(2)})`;
  const drift = trace.drift === undefined ? "Drift was not measured." : `Drift ${bits(trace.drift)}${level}.`;
  const opened = side === "plain" ? " A gate would open here." : " The gate opened here.";
  return `${drift}${trace.fired ? opened : ""}`;
}

function Late({ trace }: { trace: TokenTrace | undefined }) {
  const steered = trace?.late === "steered";
  return <SaidList title="Output" note={steered ? undefined : "before correction"} said={steered ? undefined : (trace?.late as Said[] | undefined)}
    empty={steered ? "Already steered here: there was no pass without corrections." : "Not read."} />;
}

function Curve({ at }: { at: AtToken | Error | null }) {
  if (at === null) return <section class="curve"><h4>Layer by layer</h4><p class="none">Reading …</p></section>;
  if (at instanceof Error) return <section class="curve"><h4>Layer by layer</h4><p class="none">{describeFailure(at, 0).text}</p></section>;
  const isRead = (i: number) => at.reply.layers[i]!.layer > 0; // embeddings have no opinion yet
  const layers = at.reply.layers.filter((_, i) => isRead(i));
  const cells = at.reply.positions.at(-1)!.layers.filter((_, i) => isRead(i));
  const ticks = layers.map((layer) => (layer.lens === "output" ? "out" : String(layer.layer)));
  const tones = ["truth", "claim"] as const;
  const lines = at.words.map((word, i) => ({ name: `P(${visible(word)})`, tone: tones[i]!, values: cells.map((cell) => probability(cell.candidates![i]!)) }));
  const early = layers.findIndex((layer) => layer.lens === "tuned");
  return (
    <section class="curve">
      <h4>Layer by layer<span>read without corrections</span></h4>
      {lines.length > 0 && <LineChart label="Probability by layer" lines={lines} ticks={ticks} max={1} mark={early >= 0 ? { at: early, name: "early" } : undefined} height={150} />}
      <LineChart label="Drift by layer" lines={[{ name: "KL(output ‖ layer)", tone: "drift", values: cells.map((cell) => cell.kl) }]} ticks={ticks} unit="bit" height={lines.length ? 84 : 150} />
    </section>
  );
}

interface CorrectedProps {
  turn: Turn;
  trace: TokenTrace | undefined;
  logprob: number;
  side: string;
}

function Corrected({ turn, trace, logprob, side }: CorrectedProps) {
  const corrections = trace?.steered ? (profileOf(turn)?.corrections ?? []) : [];
  const now = percent(probability(logprob)), before = trace?.base_logprob;
  return (
    <section class="corrected">
      <h4>Corrected here</h4>
      {corrections.length ? (
        <ul>{corrections.map((one) => <li key={one.name}><b>{where(one)}</b> {what(one)}</li>)}</ul>
      ) : (
        <p class="none">{whyNothing(trace, side)}</p>
      )}
      {before !== undefined && trace?.steered ? <p>This token: {percent(probability(before))} before, <b>{now}</b> after.</p> : <p>This token: {now}.</p>}
    </section>
  );
}
