// The page: its frame, and how its parts follow what is shown.

import { Columns, readReport, type Report } from "./data";
import { Details, Tip } from "./details";
import { button, el } from "./dom";
import { Graph, STAGE_WORDS } from "./graph";
import { GraphView } from "./links";
import { ListingView } from "./listing";
import { MapView } from "./map";
import { Sidebar } from "./sidebar";
import { State, VIEWS, type View } from "./state";

const KEYS: [string, string][] = [
  ["/", "search symbols"],
  ["1 2 3", "map, graph, listing"],
  ["[ ]", "stage before, stage after"],
  ["d", "dark or light"],
  ["Escape", "back to the whole link"],
  ["?", "this help"],
];

class Page {
  private readonly report: Report;
  private readonly columns: Columns;
  private readonly stages: string[];
  private readonly state: State;
  private readonly graphs = new Map<string, Promise<Graph>>();
  private graph: Graph | null = null;
  private roots: Int32Array = new Int32Array(0);
  private readonly tip = new Tip();
  private readonly sidebar = new Sidebar((symbol) => this.openSymbol(symbol));
  private readonly details = new Details((target) => this.state.set(target));
  private readonly views = {
    map: new MapView((block) => this.state.set({ block, symbol: 0 })),
    graph: new GraphView((node) => this.state.set(node)),
    listing: new ListingView(
      (target) => this.state.set(target),
      (edge, at) => this.tip.show(this.graph, edge, at),
    ),
  };
  private readonly tabs = new Map<string, HTMLButtonElement>();
  private readonly help = el("dialog", { class: "help" });

  constructor(root: HTMLElement) {
    this.report = readReport();
    this.columns = new Columns(this.report.columns);
    this.stages = Object.keys(this.report.stages);
    this.state = new State(this.stages);
    this.frame(root);
    this.state.onChange(() => void this.follow());
    document.addEventListener("keydown", (event) => this.key(event));
    // Colours of the drawing are read from the page's variables when it is drawn.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  private frame(root: HTMLElement): void {
    const views = el("nav", { "aria-label": "views", class: "tabs" });
    VIEWS.forEach((view, number) => views.append(this.tab(view, view, () => this.state.set({ view }), String(number + 1))));
    const stages = el("nav", { "aria-label": "stages", class: "tabs" });
    for (const stage of this.stages) stages.append(this.tab(stage, STAGE_WORDS[stage], () => this.state.set({ stage })));
    const header = el(
      "header",
      {},
      el("h1", {}, button(this.report.title, () => this.state.set({ symbol: 0, block: 0, view: "map" }), { title: "the whole link" })),
      views,
      stages,
      el("span", { class: "spring" }),
      button("dark / light", () => this.switchColours(), { class: "plain" }),
      button("?", () => this.help.showModal(), { class: "plain", "aria-label": "help" }),
    );
    this.help.append(el("h2", {}, "keys"), ...KEYS.map(([keys, words]) => el("p", {}, el("kbd", {}, keys), ` ${words}`)));
    this.help.append(button("close", () => this.help.close()));
    const main = el("main", {}, ...VIEWS.map((view) => this.views[view].element));
    root.replaceChildren(header, this.sidebar.element, main, this.details.element, this.tip.element, this.help);
    const kept = read("colours");
    if (kept) document.documentElement.dataset.colours = kept;
  }

  private tab(name: string, text: string, act: () => void, key = ""): HTMLButtonElement {
    const made = button(text, act, { "aria-pressed": "false", ...(key ? { title: `key ${key}` } : {}) });
    this.tabs.set(name, made);
    return made;
  }

  async follow(): Promise<void> {
    const { view, stage, symbol, block } = this.state.shown;
    const graph = await this.load(stage);
    // Somebody may have gone on while the columns were unpacked.
    if (this.state.shown.stage !== stage) return;
    this.graph = graph;
    if (!this.roots.length) this.roots = await this.columns.numbers(this.report.roots.from);
    const chosen = symbol < graph.symbolCount ? symbol : 0;
    const held = chosen ? graph.symbolBlock[chosen] : block < graph.blockCount ? block : 0;
    for (const each of VIEWS) this.views[each].element.hidden = each !== view;
    for (const [name, tab] of this.tabs) tab.setAttribute("aria-pressed", String(name === view || name === stage));
    this.tip.show(null, null, null);
    this.sidebar.show(graph, chosen);
    this.details.show(graph, chosen, held, this.roots);
    this.showView(view, graph, chosen, held);
    document.body.dataset.ready = `${view} ${stage}`;
  }

  private showView(view: View, graph: Graph, symbol: number, block: number): void {
    if (view === "map") this.views.map.show(graph, block);
    if (view === "graph") this.views.graph.show(graph, symbol, block);
    if (view === "listing") this.views.listing.show(graph, symbol, block);
  }

  private load(stage: string): Promise<Graph> {
    let found = this.graphs.get(stage);
    if (!found) {
      found = Graph.load(this.report, this.columns, stage);
      this.graphs.set(stage, found);
    }
    return found;
  }

  private openSymbol(symbol: number): void {
    const { view } = this.state.shown;
    const block = this.graph?.symbolBlock[symbol] ?? 0;
    this.state.set({ symbol, block, view: view === "map" ? "graph" : view });
  }

  private switchColours(): void {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--dark").trim() === "1";
    document.documentElement.dataset.colours = dark ? "light" : "dark";
    keep("colours", document.documentElement.dataset.colours);
    this.redraw();
  }

  private redraw(): void {
    this.views.graph.recolour();
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLInputElement) return;
    const { stage } = this.state.shown;
    const place = this.stages.indexOf(stage);
    const actions: Record<string, () => void> = {
      "/": () => this.sidebar.search.focus(),
      "1": () => this.state.set({ view: "map" }),
      "2": () => this.state.set({ view: "graph" }),
      "3": () => this.state.set({ view: "listing" }),
      "[": () => this.state.set({ stage: this.stages[Math.max(place - 1, 0)] }),
      "]": () => this.state.set({ stage: this.stages[Math.min(place + 1, this.stages.length - 1)] }),
      d: () => this.switchColours(),
      Escape: () => this.state.set({ symbol: 0, block: 0 }),
      "?": () => this.help.showModal(),
    };
    const act = actions[event.key];
    if (act && !this.help.open) {
      event.preventDefault();
      act();
    }
  }
}

// A page opened from a file may not be allowed to keep anything; then nothing is kept.
function keep(name: string, value: string): void {
  try {
    localStorage.setItem(`jitlink ${name}`, value);
  } catch {
    return;
  }
}

function read(name: string): string | null {
  try {
    return localStorage.getItem(`jitlink ${name}`);
  } catch {
    return null;
  }
}

void new Page(document.getElementById("page")!).follow();
