import { askAll, running } from "../state/chat";
import { isOrganism, status } from "../state/connection";
import { profile } from "../state/settings";
import { KNOWS, KNOWS_NOT, scenario } from "../words/scenarios";

export function Intro() {
  return (
    <div class="intro">
      <h2>One question, answered twice</h2>
      <p>
        The same model answers with the same random numbers: once <b class="steered">steered</b>, once <b>plain</b>. Choose a scenario, or
        ask, and then doubt what you were told.
      </p>
      <p>
        Each token is shaded by <em>drift</em>: how far the output has moved from what an early layer read. Select a token to see what both
        would have said, layer by layer.
      </p>
      <button type="button" class="primary start" disabled={status.value !== "ready" || running.value} onClick={() => void askAll(scenario("sure")!.questions)}>
        See it cave, see it hold
      </button>
      {isOrganism.value && (
        <aside class="note" aria-label="What the bundled model can talk about">
          <p><b>This is the small bundled model</b>, trained on purpose to give in to its user, so that there is something to look at. It knows {KNOWS}. {KNOWS_NOT} Its numbers say nothing about real models.</p>
        </aside>
      )}
      {status.value === "ready" && !profile.value && (
        <aside class="note">
          <p><b>There is no profile for this model yet</b>, so nothing can be steered. <code>unsway calibrate</code> looks for one; <code>docs/packs.md</code> makes one by hand.</p>
        </aside>
      )}
    </div>
  );
}
