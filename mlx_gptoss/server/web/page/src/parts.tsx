// Small parts that several others use.
import { type ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { store, type State } from "./store";

export function useStore(): State {
  const [state, setState] = useState(store.state);
  useEffect(() => {
    setState(store.state);
    return store.subscribe(() => setState(store.state));
  }, []);
  return state;
}

export function CopyButton(props: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(props.text);
      setCopied(true);
      setTimeout(() => setCopied(false), 1500);
    } catch {
      store.say("The browser did not allow to copy.");
    }
  };
  return (
    <button type="button" class="quiet" aria-label={props.label} onClick={copy}>
      {copied ? "Copied" : "Copy"}
    </button>
  );
}

interface ModalProps {
  title: string;
  children: ComponentChildren;
}

/** A dialog that Esc, its button and a click beside it close. */
export function Modal({ title, children }: ModalProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const close = () => store.set({ dialog: null });
  useEffect(() => {
    if (dialog.current && !dialog.current.open) dialog.current.showModal();
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-label={title}
      onClose={close}
      onClick={(event) => {
        if (event.target === dialog.current) close();
      }}
    >
      <div class="dialog">
        <header>
          <h2>{title}</h2>
          <button type="button" class="quiet" onClick={close}>
            Close
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}

export function bytes(count: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value >= 100 || unit < 2 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function number(count: number): string {
  return count.toLocaleString("en-US");
}

/** Tokens a second, as exactly as a forecast is: 3.4, 34, 340. */
export function rate(speed: number): string {
  return speed < 10 ? speed.toFixed(1) : number(Number(speed.toPrecision(2)));
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
