import { useEffect, useRef } from "preact/hooks";
import { running, selected, turns } from "../state/chat";
import { Composer } from "./composer";
import { Inspector } from "./inspector";
import { Intro } from "./intro";
import { Legend } from "./legend";
import { Rail } from "./rail";
import { TurnView } from "./turn";

/** So near to the end the view follows what comes. */
const NEAR = 160;

export function CompareView() {
  const box = useRef<HTMLDivElement>(null), inner = useRef<HTMLDivElement>(null);
  const count = turns.value.length;
  useEffect(() => follow(box.current!, inner.current!), []);
  useEffect(() => box.current!.scrollTo({ top: box.current!.scrollHeight }), [count]);
  return (
    <div class="compare">
      <Rail />
      <section class="chat" aria-label="Conversation">
        {count > 0 && <Legend />}
        <div class="turns" ref={box} tabIndex={-1}>
          <div ref={inner}>
            {count === 0 && <Intro />}
            {turns.value.map((turn, i) => <TurnView key={turn.id} turn={turn} isLast={i === count - 1} />)}
          </div>
        </div>
        {selected.value && <Inspector at={selected.value} />}
        <Composer />
      </section>
    </div>
  );
}

function follow(box: HTMLElement, inner: HTMLElement): () => void {
  const observer = new ResizeObserver(() => {
    if (running.peek() && box.scrollHeight - box.scrollTop - box.clientHeight < NEAR) box.scrollTop = box.scrollHeight;
  });
  observer.observe(inner);
  return () => observer.disconnect();
}
