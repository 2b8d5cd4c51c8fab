// A call of a tool: what it is given, what it returned, and whether it may run.
import { useState } from "preact/hooks";
import { CodeBlock } from "./code";
import { store } from "./store";
import type { CallItem } from "./types";

const STATES: Record<CallItem["state"], string> = {
  running: "running",
  asking: "waits for you",
  done: "done",
  refused: "not allowed",
  open: "not run",
};
const READS_ONLY = "browser";

export function CallCard({ call }: { call: CallItem }) {
  const asking = call.state === "asking";
  return (
    <section class={`call ${call.state}`} aria-label={`Call of ${call.name}`}>
      <details open={asking}>
        <summary>
          <span class="name">{call.name}</span>
          <span class="state">{STATES[call.state]}</span>
        </summary>
        <CodeBlock {...shown(call)} open={false} />
        {call.problem && <p class="problem">{call.problem}</p>}
      </details>
      {asking && <Approval call={call} />}
      {call.result !== undefined && (
        <details class="result">
          <summary>Result, {call.result.length.toLocaleString("en-US")} characters</summary>
          <Result text={call.result} />
        </details>
      )}
    </section>
  );
}

function shown(call: CallItem): { code: string; language: string } {
  try {
    return { code: JSON.stringify(JSON.parse(call.arguments), null, 2), language: "json" };
  } catch {
    return { code: call.arguments, language: call.name === "python" ? "python" : "" };
  }
}

function Result({ text }: { text: string }) {
  const lines = text.split("\n");
  return (
    <pre tabIndex={0} data-result="">
      {lines.map((line, n) => {
        const found = /^L(\d+): /.exec(line);
        const end = n < lines.length - 1 ? "\n" : "";
        return found ? <span data-line={found[1]}>{line + end}</span> : line + end;
      })}
    </pre>
  );
}

function Approval({ call }: { call: CallItem }) {
  const [sure, setSure] = useState(false);
  const decide = (choice: string) => call.id && store.decide(call.id, choice);
  const always = () => {
    if (sure || call.name.startsWith(`${READS_ONLY}.`)) decide("always");
    else setSure(true);
  };
  return (
    <div class="approval" role="group" aria-label={`May ${call.name} run?`}>
      <p>
        {sure
          ? `Every later call of ${call.name} in this conversation will run without asking.`
          : `May this call of ${call.name} run on this machine?`}
      </p>
      <button type="button" class="primary" onClick={() => decide("once")}>
        Once
      </button>
      <button type="button" class={sure ? "danger" : ""} onClick={always}>
        {sure ? "Always: I am sure" : "Always"}
      </button>
      <button type="button" onClick={() => decide("no")}>
        Not this time
      </button>
      <button type="button" onClick={() => decide("never")}>
        Never
      </button>
    </div>
  );
}
