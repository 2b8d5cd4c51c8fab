// One conversation: its head, its turns, and staying at the end while it grows.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Welcome } from "./dialogs";
import type { State } from "./store";
import { store } from "./store";
import { TurnView } from "./turn";

const NEAR = 80; // pixels from the end that count as the end

export function Conversation({ state }: { state: State }) {
  const { chat, chatId } = state;
  const area = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const [away, setAway] = useState(false);
  const toEnd = () => {
    const box = area.current;
    if (box) box.scrollTop = box.scrollHeight;
  };
  useLayoutEffect(() => {
    if (follows.current) toEnd();
  });
  useEffect(() => {
    follows.current = true;
    setAway(false);
    toEnd();
  }, [chatId]);
  const onScroll = () => {
    const box = area.current!;
    const near = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;
    follows.current = near;
    if (away === near) setAway(!near);
  };
  return (
    <>
      <Head state={state} />
      <div class="turns" ref={area} onScroll={onScroll} tabIndex={-1} id="turns">
        {!chatId && <Welcome state={state} />}
        {chatId && !chat && <p class="waiting">Opening …</p>}
        {chat?.turns.map((turn, n) => (
          <TurnView
            key={n}
            chat={chat}
            turn={turn}
            number={n + 1}
            last={n === chat.turns.length - 1}
          />
        ))}
        {chat?.problem && (
          <p class="problem" role="alert">
            {chat.problem}
          </p>
        )}
      </div>
      {away && (
        <button type="button" class="to-end" onClick={toEnd}>
          To the end
        </button>
      )}
      <p class="hidden" role="status">
        {chat ? (chat.asking ? "A call waits for you" : chat.running ? "Answering" : "Ready") : ""}
      </p>
    </>
  );
}

function Head({ state }: { state: State }) {
  const { chat, chatId } = state;
  const settings = store.settings;
  return (
    <header class="head">
      <button
        type="button"
        class="quiet menu"
        aria-label="Conversations"
        aria-expanded={state.sidebar}
        onClick={() => store.set({ sidebar: !state.sidebar })}
      >
        ☰
      </button>
      <h1 title={chat?.title}>{chat?.title || (chatId ? "" : "New conversation")}</h1>
      {chat?.saved && (
        <details class="export">
          <summary>Export</summary>
          <div>
            <a href={`/web/chats/${chat.id}/export?form=markdown`} download>
              Markdown
            </a>
            <a href={`/web/chats/${chat.id}/export?form=json`} download>
              JSON
            </a>
          </div>
        </details>
      )}
      {settings && (
        <button type="button" class="quiet" onClick={() => store.set({ dialog: "settings" })}>
          Settings
        </button>
      )}
    </header>
  );
}
