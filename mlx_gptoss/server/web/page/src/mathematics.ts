// Mathematics in Markdown: \( \), \[ \], $$ $$, and $ $ where it cannot be money.
import type MarkdownIt from "markdown-it";

const BLOCKS: [string, string][] = [
  ["$$", "$$"],
  ["\\[", "\\]"],
];

export function mathematics(md: InstanceType<typeof MarkdownIt>): void {
  md.inline.ruler.before("escape", "formula", (state, silent) => {
    const { src, pos } = state;
    const found = inlineFormula(src, pos);
    if (found === null) return false;
    if (!silent) {
      const token = state.push("formula", "math", 0);
      token.content = found.text;
      token.meta = { display: found.display };
    }
    state.pos = found.end;
    return true;
  });
  md.block.ruler.before(
    "fence",
    "formula",
    (state, start, end, silent) => {
      if (state.sCount[start] - state.blkIndent >= 4) return false;
      const first = state.src.slice(
        state.bMarks[start] + state.tShift[start],
        state.eMarks[start],
      );
      const pair = BLOCKS.find(([open]) => first.startsWith(open));
      if (!pair) return false;
      const [open, close] = pair;
      const lines: string[] = [];
      let line = start;
      for (; line < end; line++) {
        let text = state.getLines(line, line + 1, state.blkIndent, false).trim();
        if (line === start) text = text.slice(open.length);
        else if (!text) return false; // as in TeX, no paragraph ends within a formula
        const at = text.indexOf(close);
        if (at >= 0) {
          if (text.slice(at + close.length).trim()) return false;
          lines.push(text.slice(0, at));
          break;
        }
        lines.push(text);
      }
      if (line >= end) return false;
      if (silent) return true;
      const token = state.push("formula", "math", 0);
      token.block = true;
      token.content = lines.join("\n").trim();
      token.meta = { display: true };
      token.map = [start, line + 1];
      state.line = line + 1;
      return true;
    },
    { alt: ["paragraph", "reference", "blockquote", "list"] },
  );
}

function inlineFormula(
  src: string,
  pos: number,
): { text: string; end: number; display: boolean } | null {
  const between = (open: string, close: string, display: boolean) => {
    if (!src.startsWith(open, pos)) return null;
    const end = src.indexOf(close, pos + open.length);
    const text = end < 0 ? "" : src.slice(pos + open.length, end).trim();
    return text ? { text, end: end + close.length, display } : null;
  };
  const found =
    between("\\(", "\\)", false) ??
    between("\\[", "\\]", true) ??
    between("$$", "$$", true);
  if (found || src[pos] !== "$" || src[pos + 1] === "$") return found;
  // A single dollar: neither after a digit or a letter, nor around spaces, nor before a
  // digit. `$5 and $6` is money.
  if (/[\w$\\]/.test(src[pos - 1] ?? "")) return null;
  const single = /^\$(?![\s\d.,]*\s)([^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\w$])/.exec(
    src.slice(pos, pos + 1000),
  );
  if (!single) return null;
  return { text: single[1], end: pos + single[0].length, display: false };
}
