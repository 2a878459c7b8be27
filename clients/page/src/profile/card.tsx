import { useEffect, useState } from "preact/hooks";
import type { Token } from "marked";
import { Markdown } from "./markdown";

/** The card of a pack. What reads Markdown is loaded when a card is first shown. */
export function Card({ text }: { text: string }) {
  const [tokens, setTokens] = useState<Token[] | null>(null);
  useEffect(() => {
    let left = false;
    void import("marked").then(({ marked }) => left || setTokens(marked.lexer(text)));
    return () => { left = true; };
  }, [text]);
  return <article class="card" aria-label="Card">{tokens ? <Markdown tokens={tokens} /> : <p class="none">Reading …</p>}</article>;
}
