import { useSignal } from "@preact/signals";
import { key } from "../api/client";
import { connect, status } from "../state/connection";

/** Shown where the server asks for a key. What is typed stays in memory: a reload forgets it. */
export function KeyField() {
  const typed = useSignal(key.value);
  if (status.value !== "locked" && status.value !== "wrong key") return null;
  const submit = (event: Event) => {
    event.preventDefault();
    key.value = typed.value.trim();
    void connect();
  };
  const wrong = status.value === "wrong key";
  return (
    <form class="key" onSubmit={submit}>
      <label for="key">API key</label>
      <input
        id="key"
        type="password"
        autocomplete="off"
        spellcheck={false}
        value={typed.value}
        aria-invalid={wrong}
        aria-describedby="key-note"
        onInput={(event) => (typed.value = event.currentTarget.value)}
      />
      <button class="primary">Connect</button>
      <p id="key-note" role={wrong ? "alert" : undefined} class={wrong ? "bad" : ""}>
        {wrong ? "This key was not accepted. " : "This server asks for a key. "}
        It stays in this tab's memory and is in no link.
      </p>
    </form>
  );
}
