/** What the layers say: the grid of a prompt, and the reading behind one token of an answer. */
import { signal } from "@preact/signals";
import * as api from "../api/client";
import { Refusal } from "../api/client";
import type { LensBody, LensReply, Message, ProfileDetails, Said } from "../api/types";
import { describeFailure, type Failure } from "../words/failure";
import { profileOf, textBefore, type Answer, type Turn } from "./chat";
import { noteFailure, readDetails } from "./connection";
import { profileName, view } from "./settings";

export const QUESTION = "What is the capital of France? I think it is Lyon.";

/** What the grid is asked for. */
export const question = signal(QUESTION);
export const before = signal<Message[]>([]);
export const opening = signal("The answer is");
export const candidates = signal("Paris, Lyon");
export const positions = signal("");

export const grid = signal<LensReply | null>(null);
export const reading = signal(false);
export const failure = signal<Failure | null>(null);
let last: AbortController | null = null;

const lensOf = (profile: ProfileDetails | undefined) => (profile?.detector ? { profile: profile.name } : {});

export async function readGrid(): Promise<void> {
  last?.abort();
  const mine = (last = new AbortController());
  reading.value = true;
  failure.value = null;
  try {
    const profile = profileName.value ? await readDetails(profileName.value) : undefined;
    const read = await api.lens(
      {
        ...prompt(before.value, question.value, opening.value),
        ...named(candidates.value, opening.value),
        ...lensOf(profile),
        top_logprobs: 5,
        ...(Number(positions.value) > 0 && { positions: Math.round(Number(positions.value)) }),
      },
      mine.signal,
    );
    grid.value = read;
  } catch (error) {
    if (mine.signal.aborted) return;
    noteFailure(error);
    failure.value = describeFailure(error, 0);
  }
  reading.value = false;
}

function prompt(earlier: Message[], asked: string, answer: string): { messages: Message[] } {
  const messages: Message[] = [...earlier, { role: "user", content: asked }];
  return { messages: answer ? [...messages, { role: "assistant", content: answer }] : messages };
}

/** Candidates as they would follow: after a word a token begins with its space. */
function named(list: string, answer: string): { candidates?: string[] } {
  const words = list.split(",").map((word) => word.trim()).filter(Boolean);
  const space = answer && !/\s$/.test(answer) ? " " : "";
  return words.length ? { candidates: words.map((word) => space + word) } : {};
}

/** Opens the grid at one token of an answer. */
export function openAt(turn: Turn, answer: Answer, index: number): void {
  const piece = answer.pieces[index];
  before.value = turn.messages.slice(0, -1);
  question.value = turn.asked;
  opening.value = textBefore(answer, index).trimEnd();
  const words = [piece?.trace?.early, piece?.trace?.late].map((said) => (Array.isArray(said) ? said[0]?.[0] : undefined));
  const distinct = [...new Set(words.map((word) => word?.trim()).filter((word) => word && !word.includes(",")))];
  candidates.value = distinct.join(", ");
  view.value = "layers";
  void readGrid();
}

/** Layer by layer, what would have come where one token was drawn. Kept, for the same token is looked at again. */
export interface AtToken {
  reply: LensReply;
  words: string[];
}
const seen = new WeakMap<Answer, Map<number, Promise<AtToken>>>();

export function readAt(turn: Turn, answer: Answer, index: number): Promise<AtToken> {
  const known = seen.get(answer) ?? new Map<number, Promise<AtToken>>();
  seen.set(answer, known);
  if (!known.has(index)) {
    const asked = readToken(turn, answer, index);
    known.set(index, asked);
    asked.catch(() => known.delete(index));
  }
  return known.get(index)!;
}

async function readToken(turn: Turn, answer: Answer, index: number): Promise<AtToken> {
  const { trace } = answer.pieces[index]!;
  const text = textBefore(answer, index);
  const lists: (Said[] | "steered" | undefined)[] = [trace?.early, trace?.late];
  const words = [...new Set(lists.flatMap((said) => (Array.isArray(said) && said[0] ? [said[0][0]] : [])))];
  const body: LensBody = { ...prompt(turn.messages.slice(0, -1), turn.asked, text), ...lensOf(profileOf(turn)), top_logprobs: 10, positions: 1 };
  try {
    return { reply: await api.lens({ ...body, ...(words.length && { candidates: words }) }), words };
  } catch (error) {
    const melted = error instanceof Refusal && error.param?.startsWith("candidates");
    if (!melted) throw error;
    return { reply: await api.lens(body), words: [] }; // they cannot be named as tokens of their own here
  }
}
