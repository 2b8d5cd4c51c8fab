// Markdown to tokens. HTML in it is text like any other.
import MarkdownIt from "markdown-it";
import { mathematics } from "./mathematics";

type Parser = InstanceType<typeof MarkdownIt>;
export type Token = ReturnType<Parser["parse"]>[number];
export type Block = Token[];

type References = NonNullable<NonNullable<Parameters<Parser["parse"]>[1]>["references"]>;

type Environment = {
  references: References; // addresses of links, by their names
  known: Map<string, Token[] | null>; // what lines of text were parsed to before
  used: Map<string, Token[] | null>; // those of this time
};

const OPTIONS = { html: false, linkify: true, typographer: false };
const BLANK = /^[ \t]*$/;

// What stands in a line (emphasis, links, formulas) is most of the work.
const lineParser = new MarkdownIt(OPTIONS).use(mathematics);
lineParser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
lineParser.core.ruler.enableOnly(["inline", "linkify", "text_join"]);

const blockParser = new MarkdownIt(OPTIONS).use(mathematics);
blockParser.core.ruler.push("known_lines", (state) => {
  const { known, used } = state.env as unknown as Environment;
  const lines = state.tokens.filter((token) => token.type === "inline");
  const fresh = lines.filter((line) => !known.has(line.content));
  const part = new lineParser.core.State("", lineParser, state.env);
  part.tokens = fresh;
  lineParser.core.process(part);
  for (const line of fresh) known.set(line.content, line.children);
  for (const line of lines) {
    line.children = known.get(line.content)!;
    used.set(line.content, line.children);
  }
});
blockParser.core.ruler.enableOnly(["normalize", "block", "known_lines"]);

interface Parsed {
  blocks: Block[];
  lines: string[];
  addresses: string; // all that a link could name
}

/** A text that grows: blocks that nothing can change any more are parsed once.
 *
 * A block is finished when another begins behind a blank line, and the first line of
 * that is whole: no rule of Markdown looks further. Only the addresses of links may be
 * said later (`[name]: address`); then everything is parsed again.
 */
export class GrowingText {
  private text = "";
  private end = 0; // of the finished blocks
  private finished: Block[] = [];
  private defined: References = {}; // in the finished blocks
  private known: Environment["known"] = new Map();
  private addresses = "{}"; // that everything was parsed with

  /** Return the blocks of a text: paragraphs, lists, tables and so on. */
  parse(given: string): Block[] {
    const text = given.includes("\r") ? given.replace(/\r\n?/g, "\n") : given;
    if (!text.startsWith(this.text)) this.restart();
    this.text = text;
    const parsed = this.parseRest();
    if (parsed.addresses === this.addresses) return this.keep(parsed);
    this.restart();
    this.addresses = parsed.addresses;
    this.text = text;
    return this.keep(this.parseRest());
  }

  private restart(): void {
    this.end = 0;
    this.finished = [];
    this.defined = {};
    this.known = new Map();
  }

  private parseRest(): Parsed {
    const rest = this.text.slice(this.end);
    const references = { ...this.defined };
    const env: Environment = { references, known: this.known, used: new Map() };
    const blocks = blocksOf(blockParser.parse(rest, env));
    this.known = env.used;
    return { blocks, lines: rest.split("\n"), addresses: JSON.stringify(references) };
  }

  private keep({ blocks, lines }: Parsed): Block[] {
    let open = blocks.length - 1;
    while (open > 0 && !beginsForGood(blocks[open], lines)) open--;
    if (open <= 0) return [...this.finished, ...blocks];
    const own = `${lines.slice(0, firstLine(blocks[open])).join("\n")}\n`;
    if (own.includes("]:")) {
      blockParser.block.parse(own, blockParser, { references: this.defined }, []);
    }
    this.end += own.length;
    this.finished = [...this.finished, ...blocks.slice(0, open)];
    return [...this.finished, ...blocks.slice(open)];
  }
}

function firstLine(block: Block): number {
  return block[0].map?.[0] ?? 0;
}

function beginsForGood(block: Block, lines: string[]): boolean {
  const line = firstLine(block);
  return line > 0 && line < lines.length - 1 && BLANK.test(lines[line - 1]);
}

function blocksOf(tokens: Token[]): Block[] {
  const blocks: Block[] = [];
  let depth = 0;
  let start = 0;
  tokens.forEach((token, place) => {
    depth += token.nesting;
    if (depth > 0) return;
    blocks.push(tokens.slice(start, place + 1));
    start = place + 1;
  });
  return blocks;
}

/** Whether tokens of blocks look the same. */
export function sameTokens(some: Token[], others: Token[]): boolean {
  if (some === others) return true;
  return (
    some.length === others.length &&
    some.every((one, place) => {
      const other = others[place];
      return (
        one.type === other.type &&
        one.children === other.children &&
        one.content === other.content &&
        one.tag === other.tag &&
        one.hidden === other.hidden &&
        one.info === other.info &&
        String(one.attrs) === String(other.attrs)
      );
    })
  );
}

const SCHEMES = /^(https?:\/\/|mailto:)/i;

/** Return the address of a link that may be opened, or null. */
export function safeAddress(address: string | null | undefined): string | null {
  const text = (address ?? "").trim();
  return SCHEMES.test(text) ? text : null;
}
