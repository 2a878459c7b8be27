/** A few lines over the layers, 0 to 1 or to their maximum; drawn as SVG, told in its label. */
export interface Line {
  name: string;
  tone: "truth" | "claim" | "drift";
  values: number[];
}
interface Props {
  label: string;
  lines: Line[];
  /** Of the columns, below the axis. */
  ticks: string[];
  max?: number;
  unit?: string;
  mark?: { at: number; name: string };
  width?: number;
  height?: number;
}
const LEFT = 34, RIGHT = 12, TOP = 14, BOTTOM = 26;

export function LineChart({ label, lines, ticks, max, unit = "", mark, width = 380, height = 190 }: Props) {
  const top = max ?? Math.max(1e-9, ...lines.flatMap((line) => line.values));
  const steps = Math.max(1, ticks.length - 1);
  const x = (i: number) => LEFT + ((width - LEFT - RIGHT) * i) / steps;
  const y = (value: number) => height - BOTTOM - (height - TOP - BOTTOM) * Math.min(1, Math.max(0, value / top));
  const every = Math.ceil(ticks.length / 10);
  const told = lines.map((line) => `${line.name}: ${line.values.map((value, i) => `${ticks[i]} ${value.toFixed(2)}`).join(", ")}`);
  return (
    <figure class="chart">
      <svg viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`${label}. ${told.join(". ")}`}>
        {[0, 0.5, 1].map((part) => (
          <g key={part} class="grid">
            <line x1={LEFT} x2={width - RIGHT} y1={y(part * top)} y2={y(part * top)} />
            <text x={LEFT - 6} y={y(part * top) + 3.5} text-anchor="end">{trim(part * top)}</text>
          </g>
        ))}
        {ticks.map((tick, i) => (i % every === 0 && (i === steps || steps - i >= every)) || i === steps ? (
          <text key={i} class="tick" x={x(i)} y={height - 9} text-anchor={i === steps ? "end" : "middle"}>{tick}</text>
        ) : null)}
        {mark && <g class="mark"><line x1={x(mark.at)} x2={x(mark.at)} y1={TOP} y2={height - BOTTOM} /><text x={x(mark.at)} y={TOP - 5} text-anchor="middle">{mark.name}</text></g>}
        {lines.map((line) => (
          <g key={line.name} class={`line ${line.tone}`}>
            <polyline points={line.values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join(" ")} />
            {line.values.length < 40 && line.values.map((value, i) => <circle key={i} cx={x(i)} cy={y(value)} r={2.6} />)}
          </g>
        ))}
      </svg>
      <figcaption>
        {lines.map((line) => <span key={line.name} class={`key-of ${line.tone}`}>{line.name}</span>)}
        {unit && <span class="unit">{unit}</span>}
      </figcaption>
    </figure>
  );
}

const trim = (value: number) => (value >= 10 ? value.toFixed(0) : String(Number(value.toFixed(value >= 1 ? 1 : 2))));
