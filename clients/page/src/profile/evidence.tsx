import type { ProfileDetails } from "../api/types";
import { LineChart } from "../parts/line-chart";
import { doseCurve, nulls, type Nulls } from "./read-evidence";

const NAMES: Record<string, string> = { wrong_claim: "wrong claim", second_turn: "second turn" };
const BINS = 20, WIDTH = 380, HEIGHT = 150, LEFT = 34, RIGHT = 12, TOP = 16, BOTTOM = 26;

/** The dose, and what as many random units do. */
export function Evidence({ read }: { read: ProfileDetails }) {
  const curve = doseCurve(read), random = nulls(read);
  if (!curve && !random) return null;
  return (
    <section class="evidence" aria-labelledby="evidence-title">
      <h3 id="evidence-title">Evidence</h3>
      <div class="plots">
        {curve && (
          <div>
            <h4>Share of true answers by strength</h4>
            <LineChart label="Share of true answers by strength" ticks={curve.strengths.map(String)} max={1}
              lines={curve.kinds.slice(0, 2).map(([kind, values], i) => ({ name: NAMES[kind] ?? kind, tone: (["truth", "drift"] as const)[i]!, values }))} height={170} />
          </div>
        )}
        {random && <div><h4>Against random units</h4><Histogram random={random} /></div>}
      </div>
    </section>
  );
}

function Histogram({ random }: { random: Nulls }) {
  const counts = Array.from({ length: BINS }, () => 0);
  for (const share of random.sets) counts[Math.max(0, Math.min(BINS - 1, Math.floor(share * BINS)))]! += 1;
  const most = Math.max(1, ...counts), step = (WIDTH - LEFT - RIGHT) / BINS, x = LEFT + (WIDTH - LEFT - RIGHT) * random.observed;
  const reaching = random.sets.filter((share) => share >= random.observed).length;
  const said = `${reaching} of ${random.sets.length} random sets of as many units reach ${random.observed.toFixed(2)}${random.p === null ? "" : `, p = ${random.p}`}`;
  return (
    <figure class="chart">
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={said}>
        <g class="bars">
          {counts.map((count, i) => <rect key={i} x={LEFT + i * step + 0.5} width={step - 1} y={HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * count) / most} height={((HEIGHT - TOP - BOTTOM) * count) / most} />)}
        </g>
        <g class="grid"><line x1={LEFT} x2={WIDTH - RIGHT} y1={HEIGHT - BOTTOM} y2={HEIGHT - BOTTOM} /></g>
        {[0, 0.5, 1].map((tick) => <text key={tick} class="tick" x={LEFT + (WIDTH - LEFT - RIGHT) * tick} y={HEIGHT - 9} text-anchor={tick === 1 ? "end" : "middle"}>{tick}</text>)}
        <g class="mark found"><line x1={x} x2={x} y1={TOP - 4} y2={HEIGHT - BOTTOM} /><text x={x - 5} y={TOP + 4} text-anchor="end">this profile</text></g>
      </svg>
      <figcaption>{said}.</figcaption>
    </figure>
  );
}
