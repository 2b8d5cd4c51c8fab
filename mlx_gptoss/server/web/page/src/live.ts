// One stream of events for this tab. It comes back by itself, with the number it has.
import type { Chat, Item, Status } from "./types";

export interface Listener {
  chat(chat: Chat, restarted: boolean): void;
  delta(at: number, text: string): void;
  item(at: number, item: Item): void;
  status(status: Status): void;
  list(): void;
  gone(): void;
  connected(is: boolean): void;
  ended(): void; // the server refuses the stream: signed out, or no such conversation
}

const STALE_SECONDS = 30; // without a word: the server says something every ten
const LOOK_EACH = 5000; // milliseconds
const LONGEST_WAIT = 8000; // milliseconds

export class Live {
  private source: EventSource | null = null;
  private last = "";
  private epoch = "";
  private wait = 250;
  private timer = 0;
  private looking = 0;
  private heard = Date.now();
  private closed = false;

  constructor(
    private readonly chat: string,
    private readonly listener: Listener,
  ) {
    this.open();
    this.looking = window.setInterval(() => this.wake(), LOOK_EACH);
    addEventListener("online", this.wake);
    addEventListener("pageshow", this.wake);
    document.addEventListener("visibilitychange", this.wake);
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    clearInterval(this.looking);
    this.source?.close();
    removeEventListener("online", this.wake);
    removeEventListener("pageshow", this.wake);
    document.removeEventListener("visibilitychange", this.wake);
  }

  // A machine that slept has streams that are dead without saying so.
  private wake = (event?: Event): void => {
    if (document.hidden || this.closed) return;
    const silent = (Date.now() - this.heard) / 1000 > STALE_SECONDS;
    if (silent || (event && this.source?.readyState !== EventSource.OPEN)) this.again(0);
  };

  private open(): void {
    this.heard = Date.now();
    const source = new EventSource(
      `/web/events?chat=${encodeURIComponent(this.chat)}&after=${this.last}`,
    );
    this.source = source;
    const on = <T>(name: string, take: (value: T, id: string) => void) =>
      source.addEventListener(name, (event) => {
        const { data, lastEventId } = event as MessageEvent<string>;
        this.heard = Date.now();
        if (lastEventId) this.last = lastEventId;
        take(JSON.parse(data) as T, lastEventId);
      });
    source.onopen = () => {
      this.heard = Date.now();
      this.wait = 250;
      this.listener.connected(true);
    };
    source.onerror = () => {
      this.listener.connected(false);
      source.close();
      this.check();
    };
    on<Chat>("chat", (chat, id) => {
      const epoch = id.split("-")[0];
      const restarted = this.epoch !== "" && this.epoch !== epoch;
      this.epoch = epoch;
      this.listener.chat(chat, restarted);
    });
    on<{ at: number; text: string }>("delta", ({ at, text }) =>
      this.listener.delta(at, text),
    );
    on<{ at: number; item: Item }>("item", ({ at, item }) =>
      this.listener.item(at, item),
    );
    on<Status>("status", (status) => this.listener.status(status));
    on<unknown>("list", () => this.listener.list());
    on<unknown>("gone", () => {
      this.close();
      this.listener.gone();
    });
  }

  private again(wait: number): void {
    this.source?.close();
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      if (!this.closed) this.open();
    }, wait);
  }

  // Streams do not say why they were refused: ask.
  private async check(): Promise<void> {
    if (this.closed) return;
    try {
      const path = this.chat ? `/web/chats/${this.chat}` : "/web/page";
      const reply = await fetch(path, { cache: "no-store" });
      if (reply.status === 401 || reply.status === 404) {
        this.close();
        this.listener.ended();
        return;
      }
    } catch {
      // not reachable: try again
    }
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
    this.again(this.wait);
  }
}
