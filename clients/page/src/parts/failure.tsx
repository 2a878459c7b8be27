import type { Failure } from "../words/failure";

export function FailureNote({ failure }: { failure: Failure }) {
  return (
    <div class={failure.quiet ? "failure calm" : "failure"} role={failure.quiet ? "status" : "alert"}>
      <strong>{failure.title}</strong> {failure.text}
      {failure.code && <code>{failure.code}</code>}
    </div>
  );
}
