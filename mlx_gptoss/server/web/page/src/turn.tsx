// One turn: the question, the parts of the answer, and what can be done with them.
import { Component } from "preact";
import { useState } from "preact/hooks";
import { CallCard } from "./call";
import { CopyButton, duration, number } from "./parts";
import { store } from "./store";
import { Text, type OpenCitation } from "./text";
import type { Chat, Item, Turn } from "./types";

interface TurnProps {
  chat: Chat;
  turn: Turn;
  number: number;
  last: boolean;
}

export class TurnView extends Component<TurnProps> {
  // Turns that are over do not change while the next one grows.
  override shouldComponentUpdate(next: TurnProps): boolean {
    const now = this.props;
    return (
      next.turn !== now.turn ||
      next.last !== now.last ||
      next.chat.running !== now.chat.running ||
      next.chat.asking !== now.chat.asking ||
      next.chat.id !== now.chat.id
    );
  }

  override render(props: TurnProps) {
    return <TurnParts {...props} />;
  }
}

function TurnParts({ chat, turn, number: place, last }: TurnProps) {
  const running = chat.running && last;
  const cite: OpenCitation = (cursor, first) => openCitation(cursor, first);
  const answer = turn.items.filter((item) => item.kind === "answer");
  const text = answer.map((item) => ("text" in item ? item.text : "")).join("\n\n");
  return (
    <article class="turn" aria-label={`Turn ${place}`}>
      <Question chat={chat} turn={turn} place={place} />
      <div class="answer">
        {turn.items.map((item, n) => (
          <ItemView
            key={n}
            item={item}
            streaming={running && n === turn.items.length - 1}
            cite={cite}
          />
        ))}
        {running && !turn.items.length && <p class="thinking">…</p>}
        {turn.lost && (
          <section class="lost" aria-label="Not saved">
            <p>Arrived before the server ended, and not saved:</p>
            {turn.lost.map((item, n) => (
              <ItemView key={n} item={item} streaming={false} cite={cite} />
            ))}
          </section>
        )}
        {turn.cut && <p class="cut">({turn.cut})</p>}
        {turn.unsent && <p class="cut">(not answered)</p>}
        {!running && (
          <footer>
            <Versions turn={turn} />
            {text && <CopyButton text={text} label="Copy answer" />}
            <button
              type="button"
              class="quiet"
              disabled={chat.running}
              onClick={() => void store.redo(place)}
            >
              Try again
            </button>
            {!turn.unsent && (
              <button
                type="button"
                class="quiet"
                disabled={chat.running}
                onClick={() => void store.branch(place)}
              >
                Branch
              </button>
            )}
            {turn.stats && <Figures stats={turn.stats} />}
          </footer>
        )}
      </div>
    </article>
  );
}

function Figures({ stats }: { stats: NonNullable<Turn["stats"]> }) {
  const cached = stats.cached ? `, ${number(stats.cached)} of the prompt cached` : "";
  const speed = stats.speed ? `, ${stats.speed} tok/s` : "";
  return (
    <small>
      {number(stats.tokens)} tokens in {duration(stats.seconds)}
      {speed}
      {cached}
    </small>
  );
}

function Versions({ turn }: { turn: Turn }) {
  const versions = turn.versions;
  if (!versions) return null;
  const { at, of } = versions;
  return (
    <span class="versions" role="group" aria-label="Versions">
      <button
        type="button"
        class="quiet"
        aria-label="Version before"
        disabled={at === 0}
        onClick={() => store.open(of[at - 1])}
      >
        ‹
      </button>
      {at + 1}/{of.length}
      <button
        type="button"
        class="quiet"
        aria-label="Version after"
        disabled={at === of.length - 1}
        onClick={() => store.open(of[at + 1])}
      >
        ›
      </button>
    </span>
  );
}

function Question({ chat, turn, place }: { chat: Chat; turn: Turn; place: number }) {
  const [editing, setEditing] = useState<string | null>(null);
  const send = async (event: Event) => {
    event.preventDefault();
    if (editing?.trim() && (await store.redo(place, editing, turn.files))) setEditing(null);
  };
  return (
    <div class="question">
      {editing === null ? (
        <p>{turn.question}</p>
      ) : (
        <form onSubmit={send}>
          <textarea
            aria-label="Edit the question"
            rows={Math.min(12, editing.split("\n").length + 1)}
            value={editing}
            ref={(area) => {
              if (area && document.activeElement !== area) area.focus();
            }}
            onInput={(event) => setEditing(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Escape") {
                event.stopPropagation();
                setEditing(null);
              } else if (sends(event)) void send(event);
            }}
          />
          <button type="submit" class="primary">
            Send
          </button>
          <button type="button" class="quiet" onClick={() => setEditing(null)}>
            Cancel
          </button>
        </form>
      )}
      {turn.files.map((file, n) => (
        <details class="file" key={n}>
          <summary>{file.name}</summary>
          <pre tabIndex={0}>{file.text}</pre>
        </details>
      ))}
      {editing === null && (
        <button
          type="button"
          class="quiet edit"
          id={`edit-${place}`}
          disabled={chat.running}
          onClick={() => setEditing(turn.question)}
        >
          Edit
        </button>
      )}
    </div>
  );
}

interface ItemProps {
  item: Item;
  streaming: boolean;
  cite: OpenCitation;
}

function ItemView({ item, streaming, cite }: ItemProps) {
  if (item.kind === "call") return <CallCard call={item} />;
  if (item.kind === "reasoning") return <Reasoning item={item} streaming={streaming} />;
  return (
    <div class={item.kind}>
      <Text text={item.text} streaming={streaming} cite={cite} />
    </div>
  );
}

function Reasoning({ item, streaming }: { item: Item & { text: string }; streaming: boolean }) {
  const [open, setOpen] = useState(false);
  const seconds = "seconds" in item ? item.seconds : undefined;
  const words = item.text.split(/\s+/).filter(Boolean).length;
  const length = `${number(words)} ${words === 1 ? "word" : "words"}`;
  const time = seconds === undefined ? "" : ` for ${duration(seconds)}`;
  return (
    <details
      class="reasoning"
      open={open}
      onToggle={(event) => setOpen(event.currentTarget.open)}
    >
      <summary>
        {streaming ? "Thinking" : `Thought${time}`}, {length}
      </summary>
      {open && <p>{item.text}</p>}
    </details>
  );
}

/** Whether a key sends: Enter alone, and not the Enter of an input method. */
export function sends(event: KeyboardEvent): boolean {
  const composing = event.isComposing || event.keyCode === 229;
  return event.key === "Enter" && !event.shiftKey && !event.altKey && !composing;
}

// A citation names a page by its number: the result of a call begins with it.
function openCitation(cursor: number, line: number): void {
  for (const result of document.querySelectorAll<HTMLElement>("[data-result]")) {
    if (!result.textContent?.startsWith(`[${cursor}] `)) continue;
    result.closest("details")!.open = true;
    const shown = result.querySelector<HTMLElement>(`[data-line="${line}"]`) ?? result;
    document.querySelector(".cited")?.classList.remove("cited");
    shown.classList.add("cited");
    shown.scrollIntoView({ block: "center" });
    shown.closest<HTMLElement>("[tabindex]")?.focus({ preventScroll: true });
    return;
  }
  store.say("The page that this citation names is not in this conversation.");
}
