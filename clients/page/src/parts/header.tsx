import { useSignal } from "@preact/signals";
import { model, status, type Status } from "../state/connection";
import { theme, view, type Theme, type View } from "../state/settings";
import { CopyDialog } from "./copy-dialog";

const VIEWS: [View, string][] = [["compare", "Compare"], ["layers", "Layers"], ["profile", "Profile"]];
const SAID: Record<Status, string> = {
  connecting: "connecting …",
  loading: "the model is loading …",
  ready: "",
  locked: "needs a key",
  "wrong key": "key not accepted",
  gone: "cannot be reached, trying again …",
};
const NEXT: Record<Theme, Theme> = { auto: "dark", dark: "light", light: "auto" };

export function Header() {
  const copying = useSignal(false);
  const shared = useSignal(false);
  const share = async () => {
    await navigator.clipboard?.writeText(location.href).catch(() => undefined);
    shared.value = true;
    setTimeout(() => (shared.value = false), 1600);
  };
  return (
    <header class="top">
      <div class="brand">
        <h1>Unsway</h1>
        <p class="served" role="status">
          <span class={`dot ${status.value === "ready" ? "good" : status.value === "gone" ? "bad" : "wait"}`} aria-hidden="true" />
          {status.value === "ready" ? model.value : SAID[status.value]}
        </p>
      </div>
      <nav aria-label="Views">
        {VIEWS.map(([name, label]) => (
          <button key={name} type="button" class="tab" aria-current={view.value === name ? "page" : undefined} onClick={() => (view.value = name)}>
            {label}
          </button>
        ))}
      </nav>
      <div class="tools">
        <button type="button" class="quiet" onClick={() => (copying.value = true)}>Copy as code</button>
        <button type="button" class="quiet" onClick={share} title="Copies the address of what is shown; no key is in it">
          <span aria-live="polite">{shared.value ? "Link copied" : "Share"}</span>
        </button>
        <button type="button" class="quiet theme" onClick={() => (theme.value = NEXT[theme.value])} aria-label={`Colours: ${theme.value}`} title={`Colours: ${theme.value}`}>
          {{ auto: "◐", dark: "●", light: "○" }[theme.value]}
        </button>
      </div>
      <CopyDialog open={copying} />
    </header>
  );
}
