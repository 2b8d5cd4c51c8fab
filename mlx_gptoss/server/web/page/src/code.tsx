// Code with colours: the highlighter's tree becomes elements, never HTML.
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { CopyButton } from "./parts";

type Highlighter = typeof import("./highlighter");
let loaded: Highlighter | null = null;
const MOST_CHARACTERS = 60_000; // longer code stays plain

export function CodeBlock(props: { code: string; language: string; open: boolean }) {
  const { code, language, open } = props;
  const [ready, setReady] = useState(loaded);
  const plain = open || !language || code.length > MOST_CHARACTERS;
  useEffect(() => {
    if (plain || loaded) return;
    let alive = true;
    void import("./highlighter").then((module) => {
      loaded = module;
      if (alive) setReady(module);
    });
    return () => {
      alive = false;
    };
  }, [plain]);
  const content: ComponentChildren =
    plain || !ready ? code : (ready.highlight(code, language) ?? code);
  return (
    <figure class="code">
      <figcaption>
        <span>{language || "text"}</span>
        <CopyButton text={code} label="Copy code" />
      </figcaption>
      <pre tabIndex={0} aria-label={language ? `Code in ${language}` : "Code"}>
        <code>{content}</code>
      </pre>
    </figure>
  );
}
