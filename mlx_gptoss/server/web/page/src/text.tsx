// Tokens of Markdown to elements. Images are not loaded, links open in a new tab.
import { Component, type ComponentChildren, h } from "preact";
import { useMemo } from "preact/hooks";
import { CodeBlock } from "./code";
import { Formula } from "./formula";
import { type Block, GrowingText, safeAddress, sameTokens, type Token } from "./markdown";

const CITATION = /【(\d+)†L(\d+)(?:-L(\d+))?[^】]*】/g;
const TAGS = new Set([
  "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "table", "thead",
  "tbody", "tr", "th", "td", "strong", "em", "s",
]);

export type OpenCitation = (cursor: number, first: number, last: number) => void;

interface TextProps {
  text: string;
  streaming?: boolean;
  cite?: OpenCitation;
}

/** A text in Markdown. Blocks that did not change keep their elements. */
export function Text({ text, streaming, cite }: TextProps) {
  const growing = useMemo(() => new GrowingText(), []);
  const blocks = growing.parse(text);
  const last = blocks.length - 1;
  return (
    <div class="text">
      {blocks.map((block, n) => (
        <BlockView key={n} block={block} open={!!streaming && n === last} cite={cite} />
      ))}
    </div>
  );
}

interface BlockProps {
  block: Block; // also one within another: an item of a list, a row of a table
  open: boolean; // more may be added to it
  cite?: OpenCitation;
}

class BlockView extends Component<BlockProps> {
  override shouldComponentUpdate({ block, open }: BlockProps): boolean {
    return open !== this.props.open || !sameTokens(block, this.props.block);
  }

  override render({ block, open, cite }: BlockProps) {
    const context = { open, cite };
    if (block.length === 1) return <>{single(block[0], context)}</>;
    return <>{wrapped(block[0], build(block.slice(1, -1), context))}</>;
  }
}

interface Context {
  open: boolean;
  cite?: OpenCitation;
}

function build(tokens: Token[], context: Context): ComponentChildren[] {
  const out: ComponentChildren[] = [];
  for (let place = 0; place < tokens.length; place++) {
    const token = tokens[place];
    if (token.nesting === 1) {
      const end = closing(tokens, place);
      out.push(
        token.block ? (
          <BlockView block={tokens.slice(place, end + 1)} {...context} />
        ) : (
          wrapped(token, build(tokens.slice(place + 1, end), context))
        ),
      );
      place = end;
    } else if (token.nesting === 0) {
      out.push(single(token, context));
    }
  }
  return out;
}

function attribute(token: Token, name: string): string | null {
  const value = token.attrGet(name);
  return value === null || value === undefined ? null : String(value);
}

function closing(tokens: Token[], start: number): number {
  let depth = 0;
  for (let place = start; place < tokens.length; place++) {
    depth += tokens[place].nesting;
    if (depth === 0) return place;
  }
  return tokens.length;
}

function wrapped(token: Token, children: ComponentChildren[]): ComponentChildren {
  if (token.hidden) return children;
  if (token.type === "link_open") {
    return <Link address={attribute(token, "href")}>{children}</Link>;
  }
  if (!TAGS.has(token.tag)) return children;
  if (token.tag === "table") {
    return (
      <div class="wide" tabIndex={0} role="region" aria-label="Table">
        <table>{children}</table>
      </div>
    );
  }
  const attributes: Record<string, string> = {};
  const start = token.tag === "ol" ? attribute(token, "start") : null;
  if (start && /^\d{1,9}$/.test(start)) attributes.start = start;
  const align = /text-align:(left|right|center)/.exec(attribute(token, "style") ?? "");
  if (align) attributes.class = align[1];
  return h(token.tag, attributes, children);
}

function single(token: Token, context: Context): ComponentChildren {
  switch (token.type) {
    case "inline":
      return build(token.children ?? [], context);
    case "text":
      return context.cite ? withCitations(token.content, context.cite) : token.content;
    case "softbreak":
      return "\n";
    case "hardbreak":
      return <br />;
    case "code_inline":
      return <code>{token.content}</code>;
    case "formula":
      return <Formula text={token.content} display={!!token.meta?.display} />;
    case "fence":
    case "code_block":
      return (
        <CodeBlock
          code={token.content.replace(/\n$/, "")}
          language={token.info.trim().split(/\s+/)[0].slice(0, 30)}
          open={context.open}
        />
      );
    case "hr":
      return <hr />;
    case "image":
      return (
        <span class="image">
          Image (not loaded):{" "}
          <Link address={attribute(token, "src")}>{token.content || "without a name"}</Link>
        </span>
      );
    default:
      return token.content;
  }
}

function Link(props: { address: string | null; children: ComponentChildren }) {
  const address = safeAddress(props.address);
  if (address === null) return <span class="no-link">{props.children}</span>;
  return (
    <a href={address} target="_blank" rel="noopener noreferrer nofollow" title={address}>
      {props.children}
    </a>
  );
}

function withCitations(text: string, cite: OpenCitation): ComponentChildren {
  const parts: ComponentChildren[] = [];
  let end = 0;
  for (const found of text.matchAll(CITATION)) {
    const [mark, cursor, first, last] = found;
    parts.push(text.slice(end, found.index));
    end = found.index + mark.length;
    parts.push(
      <button
        type="button"
        class="citation"
        title={`Source ${cursor}, line ${first}`}
        onClick={() => cite(Number(cursor), Number(first), Number(last ?? first))}
      >
        {cursor}
      </button>,
    );
  }
  return end ? [...parts, text.slice(end)] : text;
}
