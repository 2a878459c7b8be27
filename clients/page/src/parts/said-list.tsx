import type { Said } from "../api/types";
import { percent, probability, visible } from "../words/numbers";

/** What may come next, most probable first, with bars. */
export function SaidList({ title, note, said, empty }: { title: string; note?: string; said?: Said[]; empty: string }) {
  return (
    <section class="said">
      <h4>{title}{note && <span>{note}</span>}</h4>
      {said?.length ? (
        <ol>
          {said.map(([text, logprob], i) => (
            <li key={i} class={i ? "" : "first"}>
              <span class="bar" style={{ width: `${Math.max(0.5, 100 * probability(logprob))}%` }} />
              <span class="word">{visible(text)}</span>
              <span class="num">{percent(probability(logprob))}</span>
            </li>
          ))}
        </ol>
      ) : (
        <p class="none">{empty}</p>
      )}
    </section>
  );
}
