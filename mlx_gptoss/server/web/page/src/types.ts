export interface Settings {
  model: string | null;
  effort: "low" | "medium" | "high";
  temperature: number;
  system: string;
  tools: string[];
}

export interface TextItem {
  kind: "reasoning" | "preamble" | "answer";
  text: string;
  seconds?: number;
}

export interface CallItem {
  kind: "call";
  id?: string;
  name: string;
  arguments: string;
  state: "running" | "asking" | "done" | "refused" | "open";
  result?: string;
  problem?: string;
}

export type Item = TextItem | CallItem;

export interface AttachedFile {
  name: string;
  text: string;
  tokens?: number | null;
}

export interface Stats {
  tokens: number;
  prompt: number;
  cached: number;
  speed: number;
  seconds: number;
}

export interface Turn {
  source: string;
  question: string;
  files: AttachedFile[];
  items: Item[];
  cut?: string;
  unsent?: boolean;
  stats?: Stats | null;
  versions?: { at: number; of: string[] } | null;
  lost?: Item[]; // arrived in this tab, but the server ended before it was saved
}

export interface Chat {
  id: string;
  title: string;
  updated: string;
  settings: Settings;
  turns: Turn[];
  running: boolean;
  stopping: boolean;
  asking: string | null;
  problem: string | null;
  saved: boolean;
}

export interface Row {
  id: string;
  title: string;
  updated: string;
  turns: number;
  versions: number;
  snippet: string;
}

export interface Served {
  name: string;
  model: string;
  adapter: string | null;
  loaded: boolean;
}

export interface PageFacts {
  version: string;
  private: boolean;
  defaults: Settings;
  tools: string[];
  models: Served[];
}

export interface Download {
  model: string;
  done: number;
  total: number;
  state: "running" | "finished" | "stopped" | "failed";
  lines: string[];
  problem: string | null;
}

export interface Status {
  memory: number;
  answering: string[];
  draining: boolean;
  download: Download | null;
  chat?: string;
  loaded?: boolean;
  context?: number | null;
  used?: number | null;
  queue?: number;
  reading?: { done: number; of: number; cached: number; left: number | null } | null;
  tokens?: number;
  speed?: number;
  cached?: number;
}

export interface PublishedModel {
  name: string;
  bytes: number;
  here: boolean;
  fits: boolean;
  problem?: string;
  mode?: string;
  memory?: number;
  speed?: [number, number];
}

export interface ModelList {
  served: Served[];
  local: { name: string; bytes: number; kind: string }[];
  published: PublishedModel[];
}
