import { memo } from "preact/compat";
import { FailureNote } from "../parts/failure";
import { selected, thresholdOf, type Answer, type Turn } from "../state/chat";
import { tell } from "../words/receipt";
import { Tokens } from "./tokens";

export function TurnView({ turn, isLast }: { turn: Turn; isLast: boolean }) {
  const at = selected.value?.turn === turn ? selected.value : null;
  return (
    <article class="turn" aria-label={`Question: ${turn.asked}`}>
      <p class="asked">{turn.asked}</p>
      <div class={turn.answers.length > 1 ? "answers two" : "answers"}>
        {turn.answers.map((answer) => <AnswerView key={answer.side} turn={turn} answer={answer} selected={at?.answer === answer ? at.index : null} />)}
      </div>
      {isLast && <span class="sr-only" role="status">{turn.running.value ? "Answering" : "Answered"}</span>}
    </article>
  );
}

interface AnswerProps {
  turn: Turn;
  answer: Answer;
  selected: number | null;
}

const NAMES = { steered: "Steered answer", plain: "Plain answer" };

const AnswerView = memo(function AnswerView({ turn, answer, selected: index }: AnswerProps) {
  const done = answer.finish.value !== null;
  const failure = answer.failure.value;
  const told = done ? tell(answer.receipt.value, thresholdOf(turn), answer.finish.value === "length") : null;
  const select = (to: number | null) => (selected.value = to === null ? null : { turn, answer, index: to });
  return (
    <section class={`answer ${answer.side}`} aria-label={NAMES[answer.side]}>
      <h3 class="side">{answer.side === "steered" ? "Steered" : turn.mode === "observe" ? "Observed" : "Plain"}</h3>
      <Tokens answer={answer} selected={index} onSelect={select} busy={!done && !failure} />
      {told && <p class="receipt"><strong class={told.tone}>{told.verdict}</strong> {told.text}</p>}
      {failure && <FailureNote failure={failure} />}
    </section>
  );
});
