import katex from "katex";
import { type ComponentChildren, h } from "preact";

interface Node {
  type?: string;
  text?: string;
  children?: Node[];
  attributes?: Record<string, string>;
}

interface Internal {
  __renderToDomTree(text: string, options: object): Node;
}

const OPTIONS = { output: "mathml", throwOnError: true, maxSize: 20, maxExpand: 500 };
const ATTRIBUTES = new Set([
  "accent", "accentunder", "columnalign", "columnlines", "columnspacing", "depth", "display",
  "displaystyle", "fence", "height", "linebreak", "linethickness", "lspace", "mathvariant",
  "maxsize", "minsize", "movablelimits", "notation", "rowalign", "rowlines", "rowspacing",
  "rspace", "scriptlevel", "separator", "stretchy", "symmetric", "voffset", "width", "xmlns",
]);

/** Return a formula as MathML elements; null if it cannot be read. */
export function formula(text: string, displayMode: boolean): ComponentChildren {
  try {
    const render = (katex as unknown as Internal).__renderToDomTree;
    return element(render(text, { ...OPTIONS, displayMode }));
  } catch {
    return null; // it is shown as it was written
  }
}

function element(node: Node): ComponentChildren {
  if (node.text !== undefined && !node.children?.length) return node.text;
  const children = (node.children ?? []).map(element);
  if (node.type === "annotation") return null;
  if (!node.type || node.type === "semantics") return children;
  const attributes = Object.entries(node.attributes ?? {});
  return h(
    node.type,
    Object.fromEntries(attributes.filter(([name]) => ATTRIBUTES.has(name))),
    children,
  );
}
