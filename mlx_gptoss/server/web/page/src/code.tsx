// Code with colours: the highlighter's tree becomes elements, never HTML.
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { CopyButton } from "./parts";

type Highlighter = typeof import("./highlighter");
let loaded: Highlighter | null = null;
const MOST_CHARACTERS = 60_000; // longer code stays plain

async function load(): Promise<Highlighter> {
  loaded ??= await import("./highlighter");
  return loaded;
}

/** Load the highlighter when the page has nothing to do: it takes about 0.1 s. */
export function loadWhenIdle(): void {
  const later = globalThis.requestIdleCallback ?? ((work) => setTimeout(work, 1000));
  later(() => void load());
}

export function CodeBlock(props: { code: string; language: string; open: boolean }) {
  const { code, language, open } = props;
  const [ready, setReady] = useState(loaded);
  const plain = open || !language || code.length > MOST_CHARACTERS;
  useEffect(() => {
    if (plain || loaded) return;
    let alive = true;
    void load().then((module) => {
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
