import { effect } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { CompareView } from "./compare/view";
import { LayersView } from "./layers/view";
import { KeyField } from "./parts/key-field";
import { Header } from "./parts/header";
import { ProfileView } from "./profile/view";
import { readDetails, status } from "./state/connection";
import { profileName, theme, view } from "./state/settings";

export function App() {
  useEffect(followTheme, []);
  useEffect(keepDetails, []);
  const shown = view.value;
  return (
    <>
      <a class="skip" href="#main">Skip to the content</a>
      <Header />
      <KeyField />
      <main id="main" tabIndex={-1} data-view={shown} aria-busy={status.value === "connecting"}>
        {shown === "compare" && <CompareView />}
        {shown === "layers" && <LayersView />}
        {shown === "profile" && <ProfileView />}
      </main>
    </>
  );
}

function followTheme() {
  return effect(() => {
    const root = document.documentElement;
    if (theme.value === "auto") delete root.dataset["theme"];
    else root.dataset["theme"] = theme.value;
  });
}

/** Threshold, units and evidence of the profile chosen are always at hand. */
function keepDetails() {
  return effect(() => {
    if (status.value === "ready" && profileName.value) readDetails(profileName.value).catch(() => undefined);
  });
}
