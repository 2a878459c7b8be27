import { useEffect, useState } from "preact/hooks";
import type { ProfileDetails } from "../api/types";
import * as api from "../api/client";
import { FailureNote } from "../parts/failure";
import { details, noteFailure, profiles, readDetails, status } from "../state/connection";
import { profileName, wanted } from "../state/settings";
import { what, where } from "../words/correction";
import { describeFailure, type Failure } from "../words/failure";
import { Card } from "./card";
import { Evidence } from "./evidence";
import { GroupMap } from "./group-map";
import { NeuronMap } from "./neuron-map";

export function ProfileView() {
  const name = profileName.value || profiles.value[0]?.name || "";
  const [card, setCard] = useState<{ name: string; text: string } | null>(null);
  const [failure, setFailure] = useState<Failure | null>(null);
  const read = details.value.get(name);
  useEffect(() => {
    if (status.value !== "ready" || !name) return;
    setFailure(null);
    const failed = (error: unknown) => (noteFailure(error), setFailure(describeFailure(error, 0)));
    readDetails(name).catch(failed);
    api.card(name).then((text) => setCard({ name, text }), failed);
  }, [name, status.value]);
  if (!name) return <div class="profile"><p class="none">{status.value === "ready" ? "There is no profile for this model yet: unsway calibrate looks for one." : "Not connected."}</p></div>;
  return (
    <div class="profile">
      <header class="lead">
        <h2>{name}{read?.digest && <code>@{read.digest.slice(0, 12)}</code>}</h2>
        <p>{read?.broken ?? read?.description}</p>
        <Chooser name={name} />
      </header>
      {failure && <FailureNote failure={failure} />}
      {read && !read.broken && (
        <div class="sheets">
          <div class="maps">
            <Facts read={read} />
            <GroupMap read={read} />
            <NeuronMap read={read} />
            <Evidence read={read} />
          </div>
          {card?.name === name && <Card text={card.text} />}
        </div>
      )}
    </div>
  );
}

function Chooser({ name }: { name: string }) {
  if (profiles.value.length < 2) return null;
  return (
    <label class="field inline"><span>Profile</span>
      <select value={name} onChange={(event) => (wanted.value = event.currentTarget.value)}>
        {profiles.value.map((one) => <option key={one.name} value={one.name} disabled={Boolean(one.broken)}>{one.name}{one.broken ? " (broken)" : ""}</option>)}
      </select>
    </label>
  );
}

function Facts({ read }: { read: ProfileDetails }) {
  const corrections = read.corrections ?? [], { detector } = read;
  return (
    <section class="facts" aria-labelledby="facts-title">
      <h3 id="facts-title">What it does</h3>
      {corrections.length === 0 ? <p>It measures, and changes nothing.</p> : (
        <ul>
          {corrections.map((one) => <li key={one.name}><b>{where(one)}</b>: {what(one)}<small>{one.gate === "always" ? "always" : `behind the gate (${one.gate})`}, in the {one.phases}</small></li>)}
        </ul>
      )}
      {detector && <p>Layer {detector.layer} is watched through a {detector.lens === "TunedLens" ? "tuned" : "logit"} lens. The gate opens where early and late differ by more than {detector.threshold.toFixed(2)} bit on the {detector.num_candidates} likeliest tokens.</p>}
    </section>
  );
}
