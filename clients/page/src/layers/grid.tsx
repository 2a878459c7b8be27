import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { LensReply } from "../api/types";
import { visible } from "../words/numbers";
import { METRICS, type Metric } from "./metric";

const CELL = 82, ROW = 27, HEAD = 30, SIDE = 66, SPARE = 3;

export interface At {
  position: number;
  /** Index into `layers`. */
  layer: number;
}
interface Props {
  reply: LensReply;
  metric: Metric;
  selected: At;
  onSelect(at: At): void;
}
interface Window {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Layers by tokens, the output on top. Only what is in sight is in the document, so its size does not matter. */
export function Grid({ reply, metric, selected, onSelect }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [sight, setSight] = useState<Window>({ left: 0, top: 0, width: 1200, height: 600 });
  const L = reply.layers.length, T = reply.positions.length;
  const look = () => {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = box.current!;
    setSight({ left: scrollLeft, top: scrollTop, width: clientWidth, height: clientHeight });
  };
  useLayoutEffect(() => {
    box.current!.scrollLeft = T * CELL;
    look();
    const observer = new ResizeObserver(look);
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, [reply]);
  useLayoutEffect(() => reveal(box.current!, selected, L), [selected]);
  const onKey = (event: KeyboardEvent) => {
    const to = moved(event, selected, L, T);
    if (!to) return;
    event.preventDefault();
    onSelect(to);
  };
  const onClick = (event: MouseEvent) => {
    const cell = (event.target as Element).closest<HTMLElement>("[data-at]");
    if (cell) onSelect(unpack(cell.dataset["at"]!));
  };
  const columns = range(Math.floor(sight.left / CELL) - SPARE, Math.ceil((sight.left + sight.width) / CELL) + SPARE, T);
  const rows = range(Math.floor(sight.top / ROW) - SPARE, Math.ceil((sight.top + sight.height) / ROW) + SPARE, L);
  return (
    <div ref={box} class="grid-box" role="grid" tabIndex={0} aria-label="Layers by tokens; the arrow keys walk" aria-rowcount={L + 1} aria-colcount={T + 1}
      aria-activedescendant={`cell-${selected.layer}-${selected.position}`} onScroll={look} onKeyDown={onKey} onClick={onClick}>
      <div class="sheet" role="presentation" style={{ width: `${SIDE + T * CELL}px`, height: `${HEAD + L * ROW}px` }}>
        <div class="head" role="row" aria-rowindex={1}>
          <span class="corner" role="columnheader" aria-colindex={1}>layer</span>
          {columns.map((t) => (
            <span key={t} role="columnheader" aria-colindex={t + 2} class={t === selected.position ? "col now" : "col"} style={{ left: `${SIDE + t * CELL}px` }} title={`token ${reply.positions[t]!.position}`}>
              {visible(reply.positions[t]!.token)}
            </span>
          ))}
        </div>
        {rows.map((r) => (
          <Row key={r} reply={reply} layer={L - 1 - r} top={HEAD + r * ROW} columns={columns} metric={metric} selected={selected} />
        ))}
      </div>
    </div>
  );
}

interface RowProps {
  reply: LensReply;
  layer: number;
  top: number;
  columns: number[];
  metric: Metric;
  selected: At;
}

function Row({ reply, layer, top, columns, metric, selected }: RowProps) {
  const { layer: index, lens } = reply.layers[layer]!;
  return (
    <div class={selected.layer === layer ? "row now" : "row"} role="row" aria-rowindex={reply.layers.length - layer + 1} style={{ top: `${top}px` }}>
      <span class={`side-name ${lens}`} role="rowheader" aria-colindex={1}>{lens === "output" ? "output" : index}{lens === "tuned" && <em>tuned</em>}</span>
      {columns.map((t) => {
        const cell = reply.positions[t]!.layers[layer]!;
        const value = METRICS[metric].value(cell, reply);
        const isNow = selected.layer === layer && selected.position === t;
        return (
          <span key={t} id={`cell-${layer}-${t}`} data-at={`${layer} ${t}`} role="gridcell" aria-colindex={t + 2} aria-selected={isNow}
            class={`cell ${metric}${value < 0 ? " minus" : ""}`} style={{ left: `${SIDE + t * CELL}px`, "--v": Math.abs(value).toFixed(3) }}>
            {visible(cell.top[0]?.[0] ?? "")}
          </span>
        );
      })}
    </div>
  );
}

function range(from: number, to: number, limit: number): number[] {
  const first = Math.max(0, from);
  return Array.from({ length: Math.max(0, Math.min(limit, to) - first) }, (_, i) => first + i);
}

function unpack(text: string): At {
  const [layer, position] = text.split(" ").map(Number) as [number, number];
  return { layer, position };
}

function moved(event: KeyboardEvent, { layer, position }: At, L: number, T: number): At | null {
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0], Home: [0, -T], End: [0, T], PageUp: [8, 0], PageDown: [-8, 0] }[event.key];
  if (!step) return null;
  const within = (value: number, limit: number) => Math.max(0, Math.min(limit - 1, value));
  return { layer: within(layer + step[0]!, L), position: within(position + step[1]!, T) };
}

/** Scrolls so that a cell stands clear of the sticky head and side. */
function reveal(box: HTMLElement, { layer, position }: At, L: number): void {
  const x = position * CELL, y = (L - 1 - layer) * ROW;
  const width = box.clientWidth - SIDE, height = box.clientHeight - HEAD;
  if (x < box.scrollLeft) box.scrollLeft = x;
  else if (x + CELL > box.scrollLeft + width) box.scrollLeft = x + CELL - width;
  if (y < box.scrollTop) box.scrollTop = y;
  else if (y + ROW > box.scrollTop + height) box.scrollTop = y + ROW - height;
}
