// What the page shows, kept in the fragment of its address: links and reloads come back to the same view.

export type View = "map" | "graph" | "listing";
export const VIEWS: View[] = ["map", "graph", "listing"];

export interface Shown {
  view: View;
  stage: string;
  // The row of a symbol or of a block: rows mean the same at all stages.
  symbol: number;
  block: number;
}

type Listener = (shown: Shown, before: Shown) => void;

export class State {
  private readonly listeners: Listener[] = [];
  shown: Shown;

  constructor(private readonly stages: string[]) {
    this.shown = this.read();
    window.addEventListener("hashchange", () => this.take(this.read()));
  }

  onChange(listener: Listener): void {
    this.listeners.push(listener);
  }

  set(change: Partial<Shown>): void {
    const next = { ...this.shown, ...change };
    const text = new URLSearchParams({ view: next.view, stage: next.stage });
    if (next.symbol) text.set("symbol", String(next.symbol));
    if (next.block) text.set("block", String(next.block));
    if (`#${text}` !== location.hash) history.pushState(null, "", `#${text}`);
    this.take(next);
  }

  private take(next: Shown): void {
    const before = this.shown;
    this.shown = next;
    for (const listener of this.listeners) listener(next, before);
  }

  private read(): Shown {
    const text = new URLSearchParams(location.hash.slice(1));
    const view = text.get("view") as View;
    const stage = text.get("stage") ?? "";
    return {
      view: VIEWS.includes(view) ? view : "map",
      stage: this.stages.includes(stage) ? stage : this.stages[this.stages.length - 1],
      symbol: row(text.get("symbol")),
      block: row(text.get("block")),
    };
  }
}

function row(text: string | null): number {
  const number = Number(text);
  return Number.isSafeInteger(number) && number > 0 ? number : 0;
}
