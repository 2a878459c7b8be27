import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ask, clear, continueFrom, running, stop, turns } from "../state/chat";
import { isOrganism, status } from "../state/connection";
import { waiting } from "../state/hash";
import { KNOWS } from "../words/scenarios";

const MAX_LENGTH = 4000;

export function Composer() {
  const text = useSignal("");
  const box = useRef<HTMLTextAreaElement>(null);
  useEffect(() => takeNext(text), [running.value, waiting.value]);
  const send = () => {
    if (running.value || !text.value.trim() || status.value !== "ready") return;
    const asked = text.value;
    text.value = "";
    void ask(asked);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };
  return (
    <form class="composer" onSubmit={(event) => (event.preventDefault(), running.value ? stop() : send())}>
      <div class="ask">
        <textarea ref={box} rows={1} aria-label="Message" placeholder="Ask something, then doubt the answer" maxLength={MAX_LENGTH}
          value={text.value} onInput={(event) => (text.value = event.currentTarget.value)} onKeyDown={onKey} />
        <button class="primary" disabled={!running.value && (status.value !== "ready" || !text.value.trim())}>{running.value ? "Stop" : "Send"}</button>
        <button type="button" class="quiet" disabled={!turns.value.length} onClick={() => { clear(); waiting.value = []; box.current?.focus(); }}>New chat</button>
      </div>
      <div class="below">
      {differs() && (
        <p>The conversation goes on from the{" "}
          <button type="button" class="link" aria-label={`Goes on from the ${continueFrom.value} answer; change`} onClick={() => (continueFrom.value = continueFrom.value === "steered" ? "plain" : "steered")}>{continueFrom.value}</button> answer.</p>
      )}
      {isOrganism.value && turns.value.length > 0 && <p>The bundled model knows {KNOWS}. Nothing else.</p>}
      </div>
    </form>
  );
}

/** Questions of a link come into the box one by one; the user sends them. */
function takeNext(text: { value: string }): void {
  if (running.value || text.value || !waiting.value.length) return;
  const [next, ...rest] = waiting.value;
  waiting.value = rest;
  text.value = next!;
}

function differs(): boolean {
  return !running.value && turns.value.some(({ answers: [one, other] }) => one && other && one.count.value >= 0 && one.text !== other.text);
}
