import { memo } from "preact/compat";
import { useRef } from "preact/hooks";
import type { Answer, Piece } from "../state/chat";

/** Tokens a block: only the last one is drawn anew while an answer streams. */
const BLOCK = 64;

interface Props {
  answer: Answer;
  selected: number | null;
  busy: boolean;
  onSelect(index: number | null): void;
}

/** An answer as text whose tokens can be walked with the arrow keys. */
export function Tokens({ answer, selected, busy, onSelect }: Props) {
  const count = answer.count.value;
  const cursor = useRef(0);
  const pick = (index: number) => {
    cursor.current = index;
    onSelect(index === selected ? null : index);
  };
  const onClick = (event: MouseEvent) => {
    const token = (event.target as Element).closest<HTMLElement>("[data-i]");
    if (token && !getSelection()?.toString()) pick(Number(token.dataset["i"]));
  };
  const onKey = (event: KeyboardEvent) => {
    const moved = move(event.key, selected ?? cursor.current, count, selected === null);
    if (event.key === "Escape" && selected !== null) onSelect(null);
    else if (moved === null) return;
    else {
      cursor.current = moved;
      onSelect(moved);
    }
    event.preventDefault();
  };
  const blocks = Array.from({ length: Math.ceil(count / BLOCK) }, (_, i) => i * BLOCK);
  return (
    <div class="tokens" role="group" tabIndex={0} aria-busy={busy} aria-label="Tokens: Enter opens one, the arrow keys walk, Escape closes" onClick={onClick} onKeyDown={onKey}>
      {blocks.map((from) => {
        const to = Math.min(count, from + BLOCK);
        const inside = selected !== null && selected >= from && selected < to;
        return <Block key={from} pieces={answer.pieces} from={from} to={to} selected={inside ? selected : null} />;
      })}
      {busy && <span class="caret" aria-hidden="true" />}
    </div>
  );
}

/** Where a key leads to; null: nowhere. */
function move(key: string, at: number, count: number, isShut: boolean): number | null {
  if (!count) return null;
  if (key === "Enter" || key === " ") return isShut ? Math.min(at, count - 1) : null;
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -count, End: count }[key];
  return step === undefined ? null : Math.max(0, Math.min(count - 1, isShut && Math.abs(step) === 1 ? at : at + step));
}

interface BlockProps {
  pieces: Piece[];
  from: number;
  to: number;
  selected: number | null;
}

const Block = memo(function Block({ pieces, from, to, selected }: BlockProps) {
  return (
    <span class="block">
      {pieces.slice(from, to).map((piece, i) => <Token key={i} piece={piece} index={from + i} isSelected={selected === from + i} />)}
    </span>
  );
}, (a, b) => a.to === b.to && a.selected === b.selected && a.pieces === b.pieces);

/** The word is shaded, not the space before it. */
function Token({ piece, index, isSelected }: { piece: Piece; index: number; isSelected: boolean }) {
  const { text, trace } = piece;
  const gap = index === 0 ? "" : text.slice(0, text.length - text.trimStart().length);
  const word = index === 0 ? text.trimStart() || text : text.slice(gap.length);
  const kinds = [trace?.fired && "fired", trace?.steered && "steered", isSelected && "selected"].filter(Boolean).join(" ");
  return (
    <>
      {gap}
      <span data-i={index} class={kinds ? `token ${kinds}` : "token"} style={trace?.drift !== undefined && trace.drift > 0.005 ? { "--d": trace.drift.toFixed(3) } : undefined}>
        {word}
      </span>
    </>
  );
}
