/** Markdown to elements. Whoever wrote a pack wrote its card: no HTML of it is ever parsed, links go to the web alone, and
 * nothing is loaded. */
import type { ComponentChildren, JSX } from "preact";
import type { Token, Tokens } from "marked";

export function Markdown({ tokens }: { tokens: Token[] }) {
  return <>{tokens.map((token, i) => <Block key={i} token={token} />)}</>;
}

function Block({ token }: { token: Token }): JSX.Element | null {
  switch (token.type) {
    case "heading": {
      const Tag = `h${Math.min(6, (token as Tokens.Heading).depth + 2)}` as "h3";
      return <Tag>{inline(token)}</Tag>;
    }
    case "paragraph": return <p>{inline(token)}</p>;
    case "blockquote": return <blockquote><Markdown tokens={(token as Tokens.Blockquote).tokens} /></blockquote>;
    case "code": return <pre class="code" tabIndex={0}>{(token as Tokens.Code).text}</pre>;
    case "hr": return <hr />;
    case "list": return <List token={token as Tokens.List} />;
    case "table": return <Table token={token as Tokens.Table} />;
    case "space": case "def": return null;
    case "text": return "tokens" in token && token.tokens ? <>{inline(token)}</> : <>{plain(token)}</>;
    default: return <p>{plain(token)}</p>; // HTML too: shown as what was written
  }
}

function List({ token }: { token: Tokens.List }) {
  const items = token.items.map((item, i) => <li key={i}><Markdown tokens={item.tokens} /></li>);
  return token.ordered ? <ol start={Number(token.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

function Table({ token }: { token: Tokens.Table }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Table, scrolls">
      <table>
        <thead><tr>{token.header.map((cell, i) => (cell.text ? <th key={i} scope="col">{spans(cell.tokens)}</th> : <td key={i} />))}</tr></thead>
        <tbody>{token.rows.map((row, r) => <tr key={r}>{row.map((cell, i) => <td key={i}>{spans(cell.tokens)}</td>)}</tr>)}</tbody>
      </table>
    </div>
  );
}

const inline = (token: Token): ComponentChildren => ("tokens" in token && token.tokens ? spans(token.tokens) : plain(token));
const spans = (tokens: Token[]): ComponentChildren => tokens.map((token, i) => <Span key={i} token={token} />);
const plain = (token: Token): string => ("text" in token && typeof token.text === "string" ? token.text : token.raw);

function Span({ token }: { token: Token }): JSX.Element {
  switch (token.type) {
    case "strong": return <strong>{inline(token)}</strong>;
    case "em": return <em>{inline(token)}</em>;
    case "del": return <del>{inline(token)}</del>;
    case "codespan": return <code>{plain(token)}</code>;
    case "br": return <br />;
    case "link": return <Link token={token as Tokens.Link} />;
    case "image": return <>[{plain(token)}]</>;
    case "html": return <>{token.raw}</>;
    default: return <>{inline(token)}</>;
  }
}

function Link({ token }: { token: Tokens.Link }): JSX.Element {
  if (!/^https?:\/\//i.test(token.href)) return <>{inline(token)}</>;
  return <a href={token.href} rel="noreferrer noopener nofollow" target="_blank">{inline(token)}</a>;
}
