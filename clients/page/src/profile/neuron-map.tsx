import type { ProfileDetails } from "../api/types";
import { config } from "../state/connection";
import { plural } from "../words/failure";
import { touched } from "./units";

const SHOWN = 24;

/** Blocks as strips of neurons, a line where one is corrected. */
export function NeuronMap({ read }: { read: ProfileDetails }) {
  const { neurons } = touched(read), model = config.value?.model;
  if (!neurons.size || !model) return null;
  const blocks = Array.from({ length: model.num_layers }, (_, i) => model.num_layers - 1 - i);
  return (
    <section class="neuron-map" aria-labelledby="neurons-title">
      <h3 id="neurons-title">Neurons</h3>
      <p>Every strip is the MLP of a block, its {model.d_mlp.toLocaleString("en")} neurons from left to right; a line is one that the profile corrects.</p>
      <ul>
        {blocks.map((block) => {
          const chosen = neurons.get(block) ?? [];
          const named = chosen.slice(0, SHOWN).join(", ") + (chosen.length > SHOWN ? ", …" : "");
          return (
            <li key={block}>
              <span class="num">{block}</span>
              <svg viewBox={`0 0 ${model.d_mlp} 10`} preserveAspectRatio="none" role="img" aria-label={chosen.length ? `Block ${block}: neurons ${named}` : `Block ${block}: none`}>
                {chosen.map((index) => <line key={index} x1={index + 0.5} x2={index + 0.5} y1={0} y2={10} vector-effect="non-scaling-stroke" />)}
              </svg>
              <span class="num" title={named}>{chosen.length ? plural(chosen.length, "neuron") : ""}</span>
            </li>
          );
        })}
      </ul>
    </section>
  );
}
