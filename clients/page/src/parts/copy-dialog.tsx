import { useSignal, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { bodyFor, history, turns } from "../state/chat";
import { config } from "../state/connection";
import { LANGUAGES, snippet, type Language } from "../words/snippets";
import { SCENARIOS } from "../words/scenarios";

/** The last request, or the one that would be sent, as others can send it. */
export function CopyDialog({ open }: { open: Signal<boolean> }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const language = useSignal<Language>("curl");
  const copied = useSignal(false);
  useEffect(() => {
    if (open.value && !dialog.current?.open) dialog.current?.showModal();
  }, [open.value]);
  const asked = turns.value.at(-1);
  const messages = asked?.messages ?? [...history(), { role: "user" as const, content: SCENARIOS[0]!.questions[0]! }];
  const base = new URL(".", location.href).href.replace(/\/$/, "");
  const code = snippet(language.value, bodyFor(messages, false), base, config.value?.requires_key ?? false);
  const copy = async () => {
    await navigator.clipboard?.writeText(code).catch(() => undefined);
    copied.value = true;
    setTimeout(() => (copied.value = false), 1600);
  };
  return (
    <dialog ref={dialog} class="copy" aria-labelledby="copy-title" onClose={() => (open.value = false)}>
      <header>
        <h2 id="copy-title">{asked ? "The last request" : "A request"}, as code</h2>
        <button type="button" class="quiet" onClick={() => dialog.current?.close()}>Close</button>
      </header>
      <div class="segmented" role="group" aria-label="Language">
        {LANGUAGES.map((name) => (
          <button key={name} type="button" aria-pressed={language.value === name} onClick={() => (language.value = name)}>{name}</button>
        ))}
      </div>
      <pre class="code" tabIndex={0} aria-label={`Request in ${language.value}`}>{code}</pre>
      <footer>
        <p>With the settings of now. The key is not in it.</p>
        <button type="button" class="primary" onClick={copy}><span aria-live="polite">{copied.value ? "Copied" : "Copy"}</span></button>
      </footer>
    </dialog>
  );
}
