// Mathematics as MathML: KaTeX's tree becomes elements, without fonts or styles.
import { type ComponentChildren, h } from "preact";
import { useEffect, useState } from "preact/hooks";

type Katex = typeof import("./katex");
let loaded: Katex | null = null;

export function Formula(props: { text: string; display: boolean }) {
  const { text, display } = props;
  const [ready, setReady] = useState(loaded);
  useEffect(() => {
    if (loaded) return;
    let alive = true;
    void import("./katex").then((module) => {
      loaded = module;
      if (alive) setReady(module);
    });
    return () => {
      alive = false;
    };
  }, []);
  const plain = <code class="formula">{text}</code>;
  const content: ComponentChildren = ready ? (ready.formula(text, display) ?? plain) : plain;
  return h(display ? "div" : "span", { class: display ? "formula display" : "formula" }, content);
}
