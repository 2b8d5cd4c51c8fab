// The conversations, the latest first, and what concerns the page as a whole.
import { useState } from "preact/hooks";
import { store, type State, type Theme } from "./store";
import type { Row } from "./types";

const DAY = 86_400_000;

export function Sidebar({ state }: { state: State }) {
  const { rows, search, facts, sidebar, theme } = state;
  return (
    <>
      {sidebar && <div class="shade" onClick={() => store.set({ sidebar: false })} />}
      <nav class={sidebar ? "sidebar shown" : "sidebar"} aria-label="Conversations">
        <header>
          <button type="button" class="primary" onClick={() => store.fresh()}>
            New conversation
          </button>
          <input
            id="search"
            type="search"
            placeholder="Search"
            aria-label="Search conversations"
            value={search}
            onInput={(event) => store.search(event.currentTarget.value)}
          />
        </header>
        <div class="rows">
          {groups(rows).map(([name, own]) => (
            <section key={name}>
              <h2>{name}</h2>
              <ul>
                {own.map((row) => (
                  <RowView key={row.id} row={row} state={state} />
                ))}
              </ul>
            </section>
          ))}
          {!rows.length && (
            <p class="empty">{search ? "Nothing found." : "No conversation yet."}</p>
          )}
        </div>
        <footer>
          <label>
            <span>Look</span>
            <select
              value={theme}
              onChange={(event) => store.setTheme(event.currentTarget.value as Theme)}
            >
              <option value="system">System</option>
              <option value="light">Light</option>
              <option value="dark">Dark</option>
            </select>
          </label>
          <div class="buttons">
            <button type="button" class="quiet" onClick={openModels}>
              Models
            </button>
            <button type="button" class="quiet" onClick={() => void store.makeLink()}>
              Link
            </button>
            <button type="button" class="quiet" onClick={() => store.set({ dialog: "help" })}>
              Help
            </button>
            <button type="button" class="quiet" onClick={() => void store.signOut()}>
              Sign out
            </button>
          </div>
          <small>
            mlx-gptoss {facts?.version}
            {facts?.private && " · private: nothing is kept"}
          </small>
        </footer>
      </nav>
    </>
  );
}

export function openModels(): void {
  store.set({ dialog: "models" });
  void store.readModels();
}

function RowView({ row, state }: { row: Row; state: State }) {
  const [naming, setNaming] = useState<string | null>(null);
  const [asked, setAsked] = useState(false);
  const answering = state.status?.answering.includes(row.id);
  const title = row.title || "Untitled";
  if (naming !== null) {
    const finish = (event: Event) => {
      event.preventDefault();
      void store.rename(row.id, naming.trim());
      setNaming(null);
    };
    return (
      <li>
        <form onSubmit={finish}>
          <input
            aria-label="Title"
            value={naming}
            ref={(input) => input?.focus()}
            onInput={(event) => setNaming(event.currentTarget.value)}
            onKeyDown={(event) => event.key === "Escape" && setNaming(null)}
            onBlur={finish}
          />
        </form>
      </li>
    );
  }
  return (
    <li class={row.id === state.chatId ? "current" : ""}>
      <a
        href={`#c=${row.id}`}
        aria-current={row.id === state.chatId ? "page" : undefined}
        onClick={(event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          store.open(row.id);
        }}
      >
        <span class="title">{title}</span>
        {answering && <span class="badge">answering</span>}
        {row.snippet && <span class="snippet">{row.snippet}</span>}
      </a>
      <span class="actions">
        {asked ? (
          <>
            <button
              type="button"
              class="danger"
              onClick={() => void store.remove(row.id)}
              onBlur={() => setAsked(false)}
              ref={(button) => button?.focus()}
            >
              {row.versions > 1 ? `Delete ${row.versions} versions` : "Delete for good"}
            </button>
          </>
        ) : (
          <>
            <button
              type="button"
              class="quiet"
              aria-label={`Rename ${title}`}
              title="Rename"
              onClick={() => setNaming(row.title)}
            >
              ✎
            </button>
            <button
              type="button"
              class="quiet"
              aria-label={`Delete ${title}`}
              title="Delete"
              onClick={() => setAsked(true)}
            >
              ✕
            </button>
          </>
        )}
      </span>
    </li>
  );
}

function groups(rows: Row[]): [string, Row[]][] {
  const today = new Date().setHours(0, 0, 0, 0);
  const found = new Map<string, Row[]>();
  for (const row of rows) {
    const time = Date.parse(row.updated);
    const name =
      time >= today
        ? "Today"
        : time >= today - DAY
          ? "Yesterday"
          : time >= today - 7 * DAY
            ? "This week"
            : "Earlier";
    found.set(name, [...(found.get(name) ?? []), row]);
  }
  return [...found];
}
