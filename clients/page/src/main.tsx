import { render } from "preact";
import { App } from "./app";
import { askAll } from "./state/chat";
import { connect, status } from "./state/connection";
import { followHash, readHash, waiting } from "./state/hash";
import { scenario } from "./words/scenarios";

/** A link to a scenario shows it; one with questions of somebody's own waits for the user to send them. */
function start(): void {
  const shared = readHash(location.hash);
  waiting.value = shared.questions;
  const root = document.getElementById("app")!;
  root.replaceChildren(); // the name that stood there meanwhile
  render(<App />, root);
  void connect();
  const stop = status.subscribe((now) => {
    if (now !== "ready") return;
    queueMicrotask(() => stop());
    followHash();
    const named = shared.scenario && scenario(shared.scenario);
    if (named) void askAll(named.questions);
  });
}

start();
