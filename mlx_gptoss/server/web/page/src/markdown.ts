// Markdown to tokens. HTML in it is text like any other.
import MarkdownIt from "markdown-it";
import { mathematics } from "./mathematics";

type Parser = InstanceType<typeof MarkdownIt>;
export type Token = ReturnType<Parser["parse"]>[number];

const md = new MarkdownIt({ html: false, linkify: true, typographer: false });
md.use(mathematics);
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

export interface Block {
  source: string; // the lines it was made of: the same lines need no new elements
  tokens: Token[];
}

/** Parse a text; one block for each paragraph, list, table and so on. */
export function parseBlocks(text: string): Block[] {
  const tokens = md.parse(text, {});
  const lines = text.split("\n");
  const blocks: Block[] = [];
  let depth = 0;
  let start = 0;
  tokens.forEach((token, place) => {
    depth += token.nesting;
    if (depth > 0) return;
    const own = tokens.slice(start, place + 1);
    const map = own[0].map;
    const source = map ? lines.slice(map[0], map[1]).join("\n") : token.content;
    blocks.push({ source: `${own[0].type} ${source}`, tokens: own });
    start = place + 1;
  });
  return blocks;
}

const SCHEMES = /^(https?:\/\/|mailto:)/i;

/** Return the address of a link that may be opened, or null. */
export function safeAddress(address: string | null | undefined): string | null {
  const text = (address ?? "").trim();
  return SCHEMES.test(text) ? text : null;
}
