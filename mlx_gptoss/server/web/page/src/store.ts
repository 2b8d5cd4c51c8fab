// The state of this tab, and everything that changes it.
import { get, post, Refused, request } from "./api";
import { Live } from "./live";
import type {
  AttachedFile, Chat, Item, ModelList, PageFacts, Row, Settings, Status, Turn,
} from "./types";

export type Theme = "system" | "light" | "dark";
export type Dialog = "settings" | "models" | "help" | "link" | null;

export interface State {
  signedIn: boolean | null; // null: not known yet
  signInProblem: string;
  facts: PageFacts | null;
  rows: Row[];
  search: string;
  chat: Chat | null;
  chatId: string; // "" for a new conversation
  status: Status | null;
  connected: boolean;
  notice: string; // said once
  dialog: Dialog;
  models: ModelList | null;
  sidebar: boolean; // on narrow screens
  theme: Theme;
  fresh: Settings | null; // of the next new conversation
  link: string; // for another browser
  busy: boolean; // a question is on its way
}

const THEME = "theme";
const FASTEST = 50; // milliseconds between drawings
const SHARE = 3; // times what a drawing takes: so much is left for everything else
const SLOWEST = 1000;
const TEXT_KINDS = ["reasoning", "preamble", "answer"];

function remembered(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export class Store {
  state: State = {
    signedIn: null,
    signInProblem: "",
    facts: null,
    rows: [],
    search: "",
    chat: null,
    chatId: "",
    status: null,
    connected: true,
    notice: "",
    dialog: null,
    models: null,
    sidebar: false,
    theme: (remembered(THEME) as Theme | null) ?? "system",
    fresh: null,
    link: "",
    busy: false,
  };
  private listeners = new Set<() => void>();
  private live: Live | null = null;
  private drawing = 0;
  private pace = FASTEST; // milliseconds between drawings while text arrives
  private offline = 0;
  private searching = 0;
  private listed = 0;
  private changing: Promise<unknown> = Promise.resolve(); // of settings; questions wait

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  set(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
    this.draw();
  }

  // Many tokens, one drawing: at most twenty a second, and fewer if they take long.
  private draw(soon = false): void {
    if (this.drawing) {
      if (soon) return;
      clearTimeout(this.drawing);
    }
    this.drawing = window.setTimeout(
      () => {
        this.drawing = 0;
        const began = performance.now();
        this.listeners.forEach((listener) => listener());
        setTimeout(() => {
          const took = performance.now() - began;
          this.pace = Math.min(SLOWEST, Math.max(FASTEST, SHARE * took));
        });
      },
      soon ? this.pace : 0,
    );
  }

  say(notice: string): void {
    this.set({ notice });
  }

  private fail(error: unknown): void {
    if (error instanceof Refused && error.status === 401) {
      this.signedOut();
      return;
    }
    this.say(error instanceof Error ? error.message : String(error));
  }

  // Signing in

  async start(): Promise<void> {
    this.applyTheme();
    const given = new URLSearchParams(location.hash.slice(1));
    const key = given.get("k");
    if (key !== null) {
      given.delete("k");
      history.replaceState(null, "", `/${given.size ? `#${given}` : ""}`);
      await this.signIn(key);
    }
    addEventListener("hashchange", () => this.follow());
    addEventListener("focus", () => void this.list());
    await this.enter();
  }

  async signIn(key: string): Promise<void> {
    try {
      await post("session", { key });
      this.set({ signInProblem: "" });
    } catch (error) {
      this.set({ signInProblem: (error as Error).message });
    }
  }

  async enter(): Promise<void> {
    try {
      const facts = await get<PageFacts>("page");
      this.set({ signedIn: true, facts, fresh: firstSettings(facts) });
      await this.list();
      this.follow();
      if (servesDemo(facts)) void this.readModels();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) this.signedOut();
      else {
        this.set({ connected: false });
        setTimeout(() => void this.enter(), 2000);
      }
    }
  }

  private signedOut(): void {
    this.live?.close();
    this.live = null;
    this.set({ signedIn: false, chat: null, rows: [], dialog: null });
  }

  async signOut(): Promise<void> {
    try {
      await request("DELETE", "session");
    } catch (error) {
      this.fail(error);
    }
    this.signedOut();
  }

  async makeLink(): Promise<void> {
    try {
      const { key } = await post<{ key: string }>("keys");
      this.set({ link: `${location.origin}/#k=${key}`, dialog: "link" });
    } catch (error) {
      this.fail(error);
    }
  }

  // The list of conversations

  async list(): Promise<void> {
    if (!this.state.signedIn) return;
    const number = ++this.listed;
    const search = this.state.search;
    try {
      const rows = await get<Row[]>(`chats?search=${encodeURIComponent(search)}`);
      if (number === this.listed) this.set({ rows });
    } catch (error) {
      if (error instanceof Refused && error.status === 401) this.signedOut();
    }
  }

  search(text: string): void {
    this.set({ search: text });
    clearTimeout(this.searching);
    this.searching = window.setTimeout(() => void this.list(), 150);
  }

  // The conversation

  private follow(): void {
    const id = new URLSearchParams(location.hash.slice(1)).get("c") ?? "";
    if (id === this.state.chatId && this.live) return;
    this.watch(id);
  }

  open(id: string): void {
    this.set({ sidebar: false });
    const hash = id ? `#c=${id}` : "";
    if (location.hash !== hash) history.pushState(null, "", `/${hash}`);
    this.watch(id);
  }

  fresh(): void {
    const facts = this.state.facts;
    if (facts) this.set({ fresh: firstSettings(facts) });
    this.open("");
    focusComposer();
  }

  private watch(id: string, chat: Chat | null = null): void {
    this.live?.close();
    this.set({ chatId: id, chat, status: null });
    document.title = chat?.title || "mlx-gptoss";
    this.live = new Live(id, {
      chat: (next, restarted) => this.take(next, restarted),
      delta: (at, text) => this.changeItem(at, (item) => addText(item, text)),
      item: (at, item) => this.changeItem(at, () => item),
      status: (status) => this.takeStatus(status),
      list: () => void this.list(),
      gone: () => {
        this.say("This conversation was deleted.");
        this.open("");
      },
      connected: (is) => this.connection(is),
      ended: () => void this.ended(id),
    });
  }

  private connection(is: boolean): void {
    clearTimeout(this.offline);
    if (is) {
      if (!this.state.connected) this.set({ connected: true });
    } else {
      this.offline = window.setTimeout(() => this.set({ connected: false }), 1500);
    }
  }

  private async ended(id: string): Promise<void> {
    try {
      await get("page");
      if (id) this.say("There is no such conversation (any more).");
      this.open("");
    } catch (error) {
      this.fail(error);
    }
  }

  private take(next: Chat, restarted: boolean): void {
    const before = this.state.chat;
    if (restarted && before?.running && before.id === next.id) {
      keepLost(before, next);
      const lost = next.turns.some((turn) => turn.lost);
      this.say(
        lost
          ? "The server ended during this answer. What had arrived here is shown below it."
          : "The server was started again during this answer. What had arrived is kept.",
      );
    }
    document.title = next.title || "mlx-gptoss";
    this.set({ chat: next });
  }

  private changeItem(at: number, change: (item: Item | undefined) => Item): void {
    const chat = this.state.chat;
    const turn = chat?.turns.at(-1);
    if (!chat || !turn) return;
    const items = turn.items.slice();
    items[at] = change(items[at]);
    const asking = items.find((one) => one.kind === "call" && one.state === "asking");
    const turns = [...chat.turns.slice(0, -1), { ...turn, items }];
    const id = asking && "id" in asking ? (asking.id ?? null) : null;
    this.state = { ...this.state, chat: { ...chat, turns, asking: id } };
    this.draw(true);
  }

  private takeStatus(status: Status): void {
    const before = this.state.status?.download;
    this.set({ status });
    const now = status.download?.state; // a short one was never seen to run
    if (now === "finished" && before?.state !== now) void this.readModels();
  }

  // Questions

  async send(text: string, files: AttachedFile[]): Promise<boolean> {
    const { chatId, fresh, busy } = this.state;
    if (busy) return false;
    const sent = files.map(({ name, text: content }) => ({ name, text: content }));
    this.set({ busy: true });
    try {
      await this.changing;
      if (chatId) {
        this.show(await post<Chat>(`chats/${chatId}/messages`, { text, files: sent }));
      } else {
        const body = { text, files: sent, settings: fresh };
        this.show(await post<Chat>("chats", body));
      }
      return true;
    } catch (error) {
      this.fail(error);
      return false;
    } finally {
      this.set({ busy: false });
    }
  }

  async redo(turn: number, text?: string, files: AttachedFile[] = []): Promise<boolean> {
    const sent = files.map(({ name, text: content }) => ({ name, text: content }));
    const body = text === undefined ? { turn } : { turn, text, files: sent };
    return this.act(async () => {
      await this.changing;
      this.show(await post<Chat>(`chats/${this.state.chatId}/redo`, body));
    });
  }

  async branch(turn: number): Promise<void> {
    await this.act(async () => {
      this.show(await post<Chat>(`chats/${this.state.chatId}/branch`, { turn }));
      this.say("A new conversation goes on from here. The other one stays as it was.");
    });
  }

  stop(): void {
    void this.act(() => post(`chats/${this.state.chatId}/stop`));
  }

  decide(call: string, choice: string): void {
    void this.act(() => post(`chats/${this.state.chatId}/approval`, { call, choice }));
  }

  private async act(work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      this.fail(error);
      return false;
    }
  }

  private show(chat: Chat): void {
    if (chat.id === this.state.chatId) return; // its events say the same
    history.pushState(null, "", `/#c=${chat.id}`);
    this.watch(chat.id, chat);
  }

  // Settings

  get settings(): Settings | null {
    return this.state.chatId ? (this.state.chat?.settings ?? null) : this.state.fresh;
  }

  async change(settings: Partial<Settings>): Promise<void> {
    const now = this.settings;
    if (!now) return;
    const next = { ...now, ...settings };
    const { chatId, chat } = this.state;
    if (!chatId) {
      this.set({ fresh: next });
      return;
    }
    if (chat) this.set({ chat: { ...chat, settings: next } });
    this.changing = this.changing.then(() =>
      this.act(() => request("PATCH", `chats/${chatId}`, { settings: next })),
    );
    await this.changing;
  }

  async rename(id: string, title: string): Promise<void> {
    await this.act(() => request("PATCH", `chats/${id}`, { title }));
    await this.list();
  }

  async remove(id: string): Promise<void> {
    await this.act(() => request("DELETE", `chats/${id}`));
    if (id === this.state.chatId) this.open("");
    await this.list();
  }

  // Models

  async readModels(): Promise<void> {
    try {
      const models = await get<ModelList>("models");
      const facts = this.state.facts;
      this.set({ models, facts: facts && { ...facts, models: models.served } });
    } catch (error) {
      this.fail(error);
    }
  }

  async use(model: string): Promise<void> {
    const done = await this.act(() => post("models", { model, action: "serve" }));
    if (!done) return;
    await this.readModels();
    await this.change({ model });
  }

  async download(model: string): Promise<void> {
    await this.act(() => post("models", { model, action: "download" }));
  }

  async stopDownload(): Promise<void> {
    await this.act(() => request("DELETE", "models"));
  }

  async count(text: string): Promise<number | null> {
    try {
      const model = this.settings?.model ?? null;
      return (await post<{ tokens: number | null }>("tokens", { text, model })).tokens;
    } catch {
      return null; // a figure less
    }
  }

  // The look

  setTheme(theme: Theme): void {
    try {
      localStorage.setItem(THEME, theme);
    } catch {
      // not remembered
    }
    this.set({ theme });
    this.applyTheme();
  }

  private applyTheme(): void {
    const { theme } = this.state;
    if (theme === "system") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.dataset.theme = theme;
  }
}

export const store = new Store();

/** Whether there is nothing but the demo, with or without adapters. */
export function servesDemo(facts: PageFacts): boolean {
  return facts.models.every((one) => one.model === "demo");
}

export function focusComposer(): void {
  requestAnimationFrame(() => document.getElementById("question")?.focus());
}

function firstSettings(facts: PageFacts): Settings {
  return { ...facts.defaults, model: facts.defaults.model ?? facts.models[0].name };
}

function addText(item: Item | undefined, text: string): Item {
  if (item && "text" in item) return { ...item, text: item.text + text };
  return { kind: "answer", text };
}

function characters(turn: Turn | undefined): number {
  const texts = (turn?.items ?? []).map((item) => ("text" in item ? item.text : ""));
  return texts.join("").length;
}

// Only a server that was killed loses anything: then this tab still has it.
function keepLost(before: Chat, next: Chat): void {
  const place = before.turns.length - 1;
  const seen = before.turns[place];
  const now = next.turns[place];
  if (characters(now) >= characters(seen)) return;
  const lost = seen.items.filter((item) => TEXT_KINDS.includes(item.kind));
  if (now) next.turns[place] = { ...now, lost };
  else next.turns.push({ ...seen, items: [], lost, unsent: false });
}
