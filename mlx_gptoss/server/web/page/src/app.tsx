// The page: the list of conversations, the conversation, dialogs, keys.
import { useEffect } from "preact/hooks";
import { Composer } from "./composer";
import { Conversation } from "./conversation";
import { HelpDialog, LinkDialog, ModelsDialog, SettingsDialog } from "./dialogs";
import { useStore } from "./parts";
import { Sidebar } from "./sidebar";
import { SignIn } from "./sign_in";
import { focusComposer, store } from "./store";

export function App() {
  const state = useStore();
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => shortcut(event);
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  if (state.signedIn === null) {
    return <p class="waiting">{state.connected ? "" : "The server does not answer."}</p>;
  }
  if (!state.signedIn) return <SignIn problem={state.signInProblem} />;
  return (
    <div class="page">
      <a class="skip" href="#question" onClick={skip}>
        To the question
      </a>
      <Sidebar state={state} />
      <main>
        <Notice state={state} />
        <Conversation state={state} />
        <Composer key={state.chatId} state={state} />
      </main>
      {state.dialog === "settings" && <SettingsDialog state={state} />}
      {state.dialog === "models" && <ModelsDialog state={state} />}
      {state.dialog === "help" && <HelpDialog />}
      {state.dialog === "link" && <LinkDialog link={state.link} />}
    </div>
  );
}

function skip(event: Event): void {
  event.preventDefault();
  focusComposer();
}

function Notice({ state }: { state: ReturnType<typeof useStore> }) {
  const { notice, connected, status } = state;
  const trouble = !connected
    ? "Not connected to the server: trying again. Nothing is lost."
    : status?.draining
      ? "The server is shutting down."
      : "";
  return (
    <div class="notices" role="status">
      {trouble && <p class="notice">{trouble}</p>}
      {notice && (
        <p class="notice">
          <span>{notice}</span>
          <button type="button" class="quiet" onClick={() => store.say("")}>
            Dismiss
          </button>
        </p>
      )}
    </div>
  );
}

function shortcut(event: KeyboardEvent): void {
  const { state } = store;
  if (!state.signedIn || event.isComposing) return;
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (command && key === "k") {
    event.preventDefault();
    store.set({ sidebar: true, dialog: null });
    requestAnimationFrame(() => document.getElementById("search")?.focus());
  } else if (command && event.shiftKey && key === "o") {
    event.preventDefault();
    store.fresh();
  } else if (command && key === ",") {
    event.preventDefault();
    store.set({ dialog: state.dialog === "settings" ? null : "settings" });
  } else if (event.key === "Escape" && !state.dialog) {
    if (state.sidebar) store.set({ sidebar: false });
    else if (state.chat?.running) store.stop();
  } else if (event.key === "?" && event.target === document.body) {
    store.set({ dialog: "help" });
  }
}
