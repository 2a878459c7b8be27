/** The conversation: every turn is one request, with one answer or with two beside each other. */
import { batch, computed, signal, type Signal } from "@preact/signals";
import { Refusal } from "../api/client";
import { BrokenOff, chat } from "../api/stream";
import type { ChatBody, Chunk, Message, Mode, ProfileDetails, Receipt, TokenLogprob, TokenTrace } from "../api/types";
import { describeFailure, type Failure } from "../words/failure";
import { details, model, noteFailure } from "./connection";
import { effectiveMode, steering } from "./settings";

/** What is drawn as one: a token, or several that share a character. */
export interface Piece {
  text: string;
  logprob: number;
  trace?: TokenTrace;
}

export interface Answer {
  side: "steered" | "plain";
  /** Grows while the answer streams; `count` says how far it may be read. */
  pieces: Piece[];
  count: Signal<number>;
  text: string;
  tokens: number;
  receipt: Signal<Receipt | null>;
  finish: Signal<string | null>;
  failure: Signal<Failure | null>;
  /** Bytes that are no whole character yet. */
  held: { bytes: number[]; trace?: TokenTrace; logprob: number };
}

export interface Turn {
  id: number;
  mode: Mode;
  asked: string;
  /** All that was sent, the question included. */
  messages: Message[];
  body: ChatBody;
  answers: Answer[];
  running: Signal<boolean>;
}

export interface Selected {
  turn: Turn;
  answer: Answer;
  index: number;
}

export const turns = signal<Turn[]>([]);
/** The token that is looked at. */
export const selected = signal<Selected | null>(null);
/** Which answer of a turn with two the conversation goes on from. */
export const continueFrom = signal<"steered" | "plain">("steered");
export const running = computed(() => turns.value.some((turn) => turn.running.value));
let abort: AbortController | null = null;
let nextId = 1;

/** The profile that a turn ran under, and the drift above which its gate opened. */
export const profileOf = (turn: Turn): ProfileDetails | undefined =>
  turn.body.steering ? details.value.get(turn.body.steering.profile ?? "") : undefined;
export const thresholdOf = (turn: Turn): number | undefined =>
  (turn.body.steering && turn.body.steering.threshold) || profileOf(turn)?.detector?.threshold;

/** The answer of a turn that later ones build on. */
export function kept(turn: Turn): Answer {
  return turn.answers.find((answer) => answer.side === continueFrom.value) ?? turn.answers[0]!;
}

/** What was generated before one token of an answer, thoughts and their marks among it. Where the text of the reply lacks the
 * space that its first token begins with, so does this. */
export function textBefore(answer: Answer, index: number): string {
  const before = answer.pieces.slice(0, index).map((piece) => piece.text).join("");
  const lacks = /^\s/.test(answer.pieces[0]?.text ?? "") && !/^\s/.test(answer.text);
  return lacks ? before.trimStart() : before;
}

export function history(before: readonly Turn[] = turns.value): Message[] {
  return before.flatMap((turn): Message[] => [
    { role: "user", content: turn.asked },
    { role: "assistant", content: kept(turn).text },
  ]);
}

export function bodyFor(messages: Message[], trace: boolean): ChatBody {
  return { model: model.value, messages, temperature: 0, steering: steering(trace) };
}

export async function ask(text: string): Promise<void> {
  const asked = text.trim();
  if (!asked || running.value || !model.value) return;
  const past = turns.value.filter((turn) => kept(turn).text && !kept(turn).failure.value);
  const messages: Message[] = [...history(past), { role: "user", content: asked }];
  const mode = effectiveMode.value;
  const sides: Answer["side"][] = mode === "compare" ? ["steered", "plain"] : [mode === "on" ? "steered" : "plain"];
  const turn: Turn = {
    id: nextId++,
    mode,
    asked,
    messages,
    body: bodyFor(messages, true),
    answers: sides.map(emptyAnswer),
    running: signal(true),
  };
  selected.value = null;
  turns.value = [...turns.value, turn];
  await stream(turn);
}

/** Asks one after the other; stops where an answer fails. */
export async function askAll(questions: readonly string[]): Promise<void> {
  clear();
  for (const question of questions) {
    await ask(question);
    if (turns.value.at(-1)?.answers.some((answer) => answer.failure.value)) return;
  }
}

export function stop(): void {
  abort?.abort(new DOMException("stopped", "AbortError"));
}

export function clear(): void {
  stop();
  selected.value = null;
  turns.value = [];
}

function emptyAnswer(side: Answer["side"]): Answer {
  return {
    side,
    pieces: [],
    count: signal(0),
    text: "",
    tokens: 0,
    receipt: signal(null),
    finish: signal(null),
    failure: signal(null),
    held: { bytes: [], logprob: 0 },
  };
}

async function stream(turn: Turn): Promise<void> {
  abort = new AbortController();
  const draw = painter(turn);
  try {
    for await (const chunk of chat(turn.body, abort.signal)) {
      take(turn, chunk);
      draw.soon();
    }
  } catch (error) {
    fail(turn, error);
  }
  draw.now();
  turn.running.value = false;
}

function take(turn: Turn, chunk: Chunk): void {
  for (const choice of chunk.choices) {
    const answer = turn.answers[choice.index];
    if (!answer) continue;
    const entries = choice.logprobs?.content ?? [];
    for (const entry of entries) addToken(answer, entry);
    const text = choice.delta.content ?? "";
    if (!entries.length && text) addPiece(answer, text, 0, undefined);
    answer.text += text;
    if (choice.steering) answer.receipt.value = choice.steering;
    if (choice.finish_reason) answer.finish.value = choice.finish_reason;
  }
}

const decoder = new TextDecoder("utf-8", { fatal: true });
const LONGEST = 4;

function addToken(answer: Answer, entry: TokenLogprob): void {
  const { held } = answer;
  held.bytes.push(...entry.bytes);
  held.logprob += entry.logprob;
  if (entry.steering && !held.trace?.fired) held.trace = entry.steering;
  answer.tokens += 1;
  let text: string;
  try {
    text = decoder.decode(new Uint8Array(held.bytes));
  } catch {
    if (held.bytes.length < LONGEST) return; // a character is not whole yet
    text = new TextDecoder().decode(new Uint8Array(held.bytes));
  }
  addPiece(answer, text, held.logprob, held.trace);
  answer.held = { bytes: [], logprob: 0 };
}

function addPiece(answer: Answer, text: string, logprob: number, trace: TokenTrace | undefined): void {
  answer.pieces.push({ text, logprob, trace });
}

function fail(turn: Turn, error: unknown): void {
  noteFailure(error);
  for (const answer of turn.answers) {
    if (answer.finish.value !== null) continue;
    answer.failure.value = describeFailure(error, answer.tokens);
  }
  if (!(error instanceof Refusal || error instanceof BrokenOff || error instanceof DOMException)) console.error(error);
}

/** Draws what has come at most once a frame, however fast it comes. */
function painter(turn: Turn): { soon(): void; now(): void } {
  let frame = 0;
  const now = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    batch(() => turn.answers.forEach((answer) => (answer.count.value = answer.pieces.length)));
  };
  return { now, soon: () => (frame ||= requestAnimationFrame(now)) };
}
