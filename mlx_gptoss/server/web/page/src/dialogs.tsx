// The settings of a conversation, models, help, a link; and a page without a conversation.
import { useEffect, useRef, useState } from "preact/hooks";

import { bytes, CopyButton, Modal, number, rate } from "./parts";
import { openModels } from "./sidebar";
import { servesDemo, store, type State } from "./store";
import type { Download, PageFacts, PublishedModel, Settings } from "./types";

const EFFORTS: Settings["effort"][] = ["low", "medium", "high"];

// A value that is being typed or dragged, and what keeps it: shown as it is until it is
// kept, whatever else is drawn anew meanwhile; kept, too, when its field goes away.
function useDraft<T>(value: T, keep: (value: T) => void) {
  const [draft, setDraft] = useState<T | null>(null);
  const last = useRef<{ draft: T | null; keep: (value: T) => void }>({ draft, keep });
  last.current.keep = keep;
  const edit = (given: T | null) => {
    last.current.draft = given;
    setDraft(given);
  };
  const finish = () => {
    const given = last.current.draft;
    if (given === null) return;
    last.current.keep(given);
    edit(null);
  };
  useEffect(() => () => {
    if (last.current.draft !== null) last.current.keep(last.current.draft);
  }, []);
  return { value: draft ?? value, edit, finish };
}

export function SettingsDialog({ state }: { state: State }) {
  if (!store.settings || !state.facts) return null;
  return <SettingsFields settings={store.settings} facts={state.facts} />;
}

function SettingsFields({ settings, facts }: { settings: Settings; facts: PageFacts }) {
  const change = (given: Partial<Settings>) => void store.change(given);
  const temperature = useDraft(settings.temperature, (given) =>
    change({ temperature: given }),
  );
  const system = useDraft(settings.system, (given) => change({ system: given }));
  return (
    <Modal title="Settings of this conversation">
      <label class="field">
        <span>Model</span>
        <select
          value={settings.model ?? ""}
          onChange={(event) => change({ model: event.currentTarget.value })}
        >
          {facts.models.map((model) => (
            <option key={model.name} value={model.name}>
              {model.name}
              {model.loaded ? "" : " (is loaded when it is asked)"}
            </option>
          ))}
        </select>
      </label>
      <fieldset>
        <legend>Reasoning effort</legend>
        {EFFORTS.map((effort) => (
          <label key={effort}>
            <input
              type="radio"
              name="effort"
              checked={settings.effort === effort}
              onChange={() => change({ effort })}
            />
            {effort}
          </label>
        ))}
      </fieldset>
      <label class="field">
        <span>Temperature: {temperature.value.toFixed(1)}</span>
        <input
          type="range"
          min="0"
          max="2"
          step="0.1"
          value={temperature.value}
          onInput={(event) => temperature.edit(Number(event.currentTarget.value))}
          onChange={temperature.finish}
        />
      </label>
      <label class="field">
        <span>Instructions for the model</span>
        <textarea
          rows={5}
          value={system.value}
          onInput={(event) => system.edit(event.currentTarget.value)}
          onChange={system.finish}
        />
      </label>
      <fieldset>
        <legend>Tools</legend>
        {facts.tools.map((tool) => (
          <label key={tool}>
            <input
              type="checkbox"
              checked={settings.tools.includes(tool)}
              onChange={(event) => {
                const others = settings.tools.filter((one) => one !== tool);
                const tools = event.currentTarget.checked ? [...others, tool] : others;
                change({ tools });
              }}
            />
            {tool}
          </label>
        ))}
        {!facts.tools.length && (
          <p>
            None are offered. Start with <code>mlx-gptoss serve --tools python</code>, for
            one.
          </p>
        )}
      </fieldset>
    </Modal>
  );
}

export function ModelsDialog({ state }: { state: State }) {
  const { models, status } = state;
  return (
    <Modal title="Models">
      {!models && <p>Reading …</p>}
      {models && (
        <>
          <h3>Served</h3>
          <ul class="models">
            {models.served.map((model) => (
              <li key={model.name}>
                <span>{model.name}</span>
                <small>{model.loaded ? "loaded" : "not loaded"}</small>
                <button type="button" onClick={() => void store.use(model.name)}>
                  Use here
                </button>
              </li>
            ))}
          </ul>
          {models.local.length > 0 && <h3>On this machine</h3>}
          <ul class="models">
            {models.local.map((model) => (
              <li key={model.name}>
                <span>{model.name}</span>
                <small>
                  {model.kind}, {bytes(model.bytes)}
                </small>
                <button type="button" onClick={() => void store.use(model.name)}>
                  Use here
                </button>
              </li>
            ))}
          </ul>
          {models.published.length > 0 && <h3>Published by OpenAI</h3>}
          <Published models={models.published} download={status?.download ?? null} />
        </>
      )}
    </Modal>
  );
}

function Published(props: { models: PublishedModel[]; download: Download | null }) {
  const { models, download } = props;
  const running = download?.state === "running";
  return (
    <ul class="models">
      {models.map((model) => (
        <li key={model.name}>
          <span>{model.name}</span>
          <small>{model.fits ? fitText(model) : `Does not fit: ${model.problem}`}</small>
          {model.here ? (
            <button type="button" onClick={() => void store.use(model.name)}>
              Use here
            </button>
          ) : (
            model.fits && (
              <button
                type="button"
                disabled={running}
                onClick={() => void store.download(model.name)}
              >
                Download {bytes(model.bytes)}
              </button>
            )
          )}
          {download?.model === model.name && <DownloadView download={download} />}
        </li>
      ))}
    </ul>
  );
}

// What it means to whoever waits for answers where a model's weights are.
const PLACES: Record<string, string> = {
  resident: "",
  hybrid: ", and reads the rest from disk while it answers",
  streamed: ", and reads the rest from disk while it answers, which is slower",
};

function fitText(model: PublishedModel): string {
  const [low, high] = model.speed ?? [0, 0];
  const memory = `Takes ${bytes(model.memory ?? 0)} of memory${PLACES[model.mode ?? ""]}`;
  return `${memory}: ${rate(low)} to ${rate(high)} tokens a second expected.`;
}

function DownloadView({ download }: { download: Download }) {
  const { done, total, state, problem, lines } = download;
  if (state === "failed") return <p class="problem">{problem}</p>;
  if (state === "finished") return <p>Downloaded.</p>;
  if (state === "stopped") {
    return <p>Stopped at {bytes(done)}: the next download goes on there.</p>;
  }
  return (
    <div class="download">
      <progress max={total || 1} value={done} aria-label="Download" />
      <small>
        {bytes(done)} of {total ? bytes(total) : "…"}
      </small>
      <button type="button" onClick={() => void store.stopDownload()}>
        Stop
      </button>
      {lines.length > 0 && <small>{lines.at(-1)}</small>}
    </div>
  );
}

export function Welcome({ state }: { state: State }) {
  const { facts, models, status } = state;
  const demo = !!facts && servesDemo(facts);
  return (
    <div class="welcome">
      <h2>{facts?.private ? "A private conversation" : "What would you like to know?"}</h2>
      {facts?.private && (
        <p>Nothing is kept, here or in the browser: when the server ends, it is gone.</p>
      )}
      {demo && (
        <>
          <p>The model that runs is a tiny demo, good for a first look only.</p>
          {!models && <p>Looking what fits this machine …</p>}
          {models && models.published.length > 0 && (
            <>
              <p>On this machine OpenAI's models would run like this:</p>
              <Published models={models.published} download={status?.download ?? null} />
            </>
          )}
        </>
      )}
      {!demo && (
        <p>
          {facts?.models.map((one) => one.name).join(", ")}{" "}
          <button type="button" class="quiet" onClick={openModels}>
            Other models
          </button>
        </p>
      )}
    </div>
  );
}

const KEYS: [string, string][] = [
  ["Enter", "sends; Shift+Enter begins a new line"],
  ["Esc", "stops the answer, and keeps what has arrived"],
  ["↑", "in an empty field edits the last question"],
  ["Ctrl or ⌘ K", "searches the conversations"],
  ["Ctrl or ⌘ Shift O", "begins a new conversation"],
  ["Ctrl or ⌘ ,", "opens the settings"],
  ["?", "shows this"],
];

export function HelpDialog() {
  return (
    <Modal title="Help">
      <dl class="keys">
        {KEYS.map(([key, text]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <p>
        Drop text files on the page, or paste them. A paste of more than {number(8000)}{" "}
        characters becomes a file. Conversations are those of <code>mlx-gptoss chat</code>:{" "}
        <code>mlx-gptoss chat --continue</code> goes on with the last one.
      </p>
    </Modal>
  );
}

export function LinkDialog({ link }: { link: string }) {
  return (
    <Modal title="A link for another browser">
      <p>It is good once, and until the server ends. Whoever has it reads everything here.</p>
      <p class="link">
        <code>{link}</code> <CopyButton text={link} label="Copy link" />
      </p>
    </Modal>
  );
}
