// Where questions are written: files beside them, the figures below.
import { useEffect, useRef, useState } from "preact/hooks";
import { bytes, duration, number } from "./parts";
import { store, type State } from "./store";
import { sends } from "./turn";
import type { AttachedFile, Status } from "./types";

const LARGEST = 2 * 2 ** 20; // bytes of a file
const MOST_FILES = 32;
const LONG_PASTE = 8000; // characters: a paste that becomes a file

export function Composer({ state }: { state: State }) {
  const { chat, chatId, facts } = state;
  const key = `draft ${chatId}`;
  const [text, setText] = useState(() => (facts?.private ? "" : draft(key)));
  const [files, setFiles] = useState<AttachedFile[]>([]);
  const [over, setOver] = useState(false);
  const area = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  const running = !!chat?.running;
  useEffect(() => {
    area.current?.focus();
  }, []);
  useEffect(() => {
    const box = area.current!;
    box.rows = Math.min(12, Math.max(1, text.split("\n").length));
    if (!facts?.private) keepDraft(key, text);
  }, [text]);

  const add = async (given: FileList | File[]) => {
    for (const file of Array.from(given)) {
      const problem = await attach(file, setFiles);
      if (problem) store.say(problem);
    }
  };
  const send = async (event?: Event) => {
    event?.preventDefault();
    if (running || state.busy || (!text.trim() && !files.length)) return;
    const given = { text, files };
    setText("");
    setFiles([]);
    if (!(await store.send(given.text, given.files))) {
      setText(given.text);
      setFiles(given.files);
    }
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (sends(event)) void send(event);
    else if (event.key === "ArrowUp" && !text && chat?.turns.length && !running) {
      event.preventDefault();
      document.getElementById(`edit-${chat.turns.length}`)?.click();
    }
  };
  const onPaste = (event: ClipboardEvent) => {
    const clipboard = event.clipboardData;
    if (!clipboard) return;
    if (clipboard.files.length) {
      event.preventDefault();
      void add(clipboard.files);
      return;
    }
    const pasted = clipboard.getData("text/plain");
    if (pasted.length > LONG_PASTE) {
      event.preventDefault();
      void add([new File([pasted], "pasted.txt", { type: "text/plain" })]);
    }
  };
  const onDrop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    if (event.dataTransfer) void add(event.dataTransfer.files);
  };
  return (
    <form
      class={over ? "composer over" : "composer"}
      onSubmit={send}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={onDrop}
    >
      {files.length > 0 && (
        <ul class="files" aria-label="Files beside the question">
          {files.map((file, n) => (
            <li key={n}>
              <span>
                {file.name}, {fileSize(file)}
              </span>
              <button
                type="button"
                class="quiet"
                aria-label={`Remove ${file.name}`}
                onClick={() => setFiles(files.filter((one) => one !== file))}
              >
                ✕
              </button>
            </li>
          ))}
        </ul>
      )}
      <div class="line">
        <textarea
          id="question"
          ref={area}
          rows={1}
          placeholder="Ask something"
          aria-label="Question"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={onKeyDown}
          onPaste={onPaste}
        />
        <input
          ref={picker}
          type="file"
          multiple
          class="hidden"
          tabIndex={-1}
          aria-label="Files"
          onChange={(event) => {
            void add([...(event.currentTarget.files ?? [])]); // a copy: this empties it
            event.currentTarget.value = "";
          }}
        />
        <button type="button" class="quiet" onClick={() => picker.current?.click()}>
          Files
        </button>
        {running ? (
          <button type="button" class="primary" onClick={() => store.stop()}>
            {chat?.stopping ? "Stopping" : "Stop"}
          </button>
        ) : (
          <button type="submit" class="primary" disabled={state.busy}>
            Send
          </button>
        )}
      </div>
      <Meters state={state} />
    </form>
  );
}

function Meters({ state }: { state: State }) {
  const { status, chat } = state;
  const settings = store.settings;
  const parts: string[] = [];
  if (settings) parts.push(settings.model ?? "", `${settings.effort} effort`);
  if (status) parts.push(...progress(status, !!chat?.running));
  if (status?.speed) parts.push(`${status.speed} tok/s`);
  if (status?.cached) parts.push(`${number(status.cached)} cached`);
  if (status) parts.push(`${bytes(status.memory)} memory`);
  const { used, context } = status ?? {};
  return (
    <div class="meters">
      <span>{parts.filter(Boolean).join(" · ")}</span>
      {used && context ? (
        <label>
          <meter min={0} max={context} high={context * 0.9} value={used} />
          <span>
            {number(used)} of {number(context)} tokens
          </span>
        </label>
      ) : null}
    </div>
  );
}

function progress(status: Status, running: boolean): string[] {
  if (!running) return [];
  if (status.loaded === false) return ["loading the model"];
  if (status.queue) return [`place ${status.queue} in the queue`];
  const reading = status.reading;
  if (!reading) return [];
  const left = reading.left === null ? "" : `, ${duration(reading.left)} left`;
  return [`reading ${number(reading.done)} of ${number(reading.of)} tokens${left}`];
}

function fileSize(file: AttachedFile): string {
  if (typeof file.tokens === "number") return `${number(file.tokens)} tokens`;
  return bytes(new Blob([file.text]).size);
}

async function attach(
  file: File,
  setFiles: (change: (files: AttachedFile[]) => AttachedFile[]) => void,
): Promise<string> {
  if (file.type.startsWith("image/")) {
    return `${file.name} is a picture: gpt-oss reads text only.`;
  }
  if (file.size > LARGEST) {
    return `${file.name} has ${bytes(file.size)}, more than the ${bytes(LARGEST)} allowed.`;
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    return `${file.name} is not text in UTF-8.`;
  }
  if (text.includes("\0")) return `${file.name} is not text.`;
  const added: AttachedFile = { name: file.name, text, tokens: null };
  let full = false;
  setFiles((files) => {
    full = files.length >= MOST_FILES;
    return full ? files : [...files, added];
  });
  void store.count(text).then((tokens) =>
    setFiles((files) => files.map((one) => (one === added ? { ...one, tokens } : one))),
  );
  return full ? `More than ${MOST_FILES} files.` : "";
}

function draft(key: string): string {
  try {
    return sessionStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

function keepDraft(key: string, text: string): void {
  try {
    if (text) sessionStorage.setItem(key, text);
    else sessionStorage.removeItem(key);
  } catch {
    // full, or not allowed: the text is still in the page
  }
}
