import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import dockerfile from "highlight.js/lib/languages/dockerfile";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import kotlin from "highlight.js/lib/languages/kotlin";
import lua from "highlight.js/lib/languages/lua";
import makefile from "highlight.js/lib/languages/makefile";
import markdown from "highlight.js/lib/languages/markdown";
import objectivec from "highlight.js/lib/languages/objectivec";
import php from "highlight.js/lib/languages/php";
import python from "highlight.js/lib/languages/python";
import r from "highlight.js/lib/languages/r";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import shell from "highlight.js/lib/languages/shell";
import sql from "highlight.js/lib/languages/sql";
import swift from "highlight.js/lib/languages/swift";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import type { ComponentChildren } from "preact";

const LANGUAGES = {
  bash, c, cpp, csharp, css, diff, dockerfile, go, ini, java, javascript, json, kotlin, lua,
  makefile, markdown, objectivec, php, python, r, ruby, rust, shell, sql, swift, typescript,
  xml, yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) {
  hljs.registerLanguage(name, language);
}

interface Node {
  scope?: string;
  children: (Node | string)[];
}

/** Return coloured elements; null for a language that is not known. */
export function highlight(code: string, language: string): ComponentChildren {
  if (!hljs.getLanguage(language)) return null;
  const found = hljs.highlight(code, { language, ignoreIllegals: true });
  const tree = (found as unknown as { _emitter: { rootNode: Node } })._emitter.rootNode;
  return tree.children.map(element);
}

function element(node: Node | string): ComponentChildren {
  if (typeof node === "string") return node;
  const children = node.children.map(element);
  if (!node.scope || node.scope.startsWith("language:")) return children;
  const names = node.scope.split(".").map((one, n) => (n ? `${one}_` : `hljs-${one}`));
  return <span class={names.join(" ")}>{children}</span>;
}
