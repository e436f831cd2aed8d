// The list of symbols, with the search above it.

import { el, VirtualList } from "./dom";
import { bytesText, DEFINITIONS, type Graph } from "./graph";

const ROW_HEIGHT = 22;

export class Sidebar {
  readonly element = el("aside", { class: "sidebar", "aria-label": "symbols" });
  readonly search = el("input", {
    type: "search", placeholder: "search symbols  ( / )", "aria-label": "search symbols", spellcheck: "false",
  });
  private readonly count = el("p", { class: "info", role: "status" });
  private readonly list: VirtualList;
  private graph: Graph | null = null;
  private all: number[] = [];
  private lower: string[] = [];
  private found: number[] = [];
  private selected = 0;
  private cursor = -1;

  constructor(private readonly open: (symbol: number) => void) {
    this.list = new VirtualList(ROW_HEIGHT, (row) => this.row(row), "symbols");
    this.element.append(this.search, this.count, this.list.element);
    this.search.addEventListener("input", () => this.filter());
    this.search.addEventListener("keydown", (event) => this.key(event));
    this.list.element.addEventListener("keydown", (event) => this.key(event));
  }

  show(graph: Graph, symbol: number): void {
    if (graph !== this.graph) {
      this.graph = graph;
      this.all = listed(graph);
      this.lower = this.all.map((row) => graph.symbolText(row).toLowerCase());
      this.selected = symbol;
      this.filter();
    }
    this.selected = symbol;
    const place = this.found.indexOf(symbol);
    if (place >= 0) {
      this.cursor = place;
      this.list.scrollTo(place);
    }
    this.list.draw(true);
  }

  private filter(): void {
    const wanted = this.search.value.trim().toLowerCase();
    const scored: [number, number][] = [];
    this.all.forEach((row, at) => {
      const score = match(this.lower[at], wanted);
      if (score > 0) scored.push([row, score]);
    });
    if (wanted) scored.sort((a, b) => b[1] - a[1]);
    this.found = scored.map(([row]) => row);
    this.cursor = wanted && this.found.length ? 0 : -1;
    this.count.textContent = `${this.found.length.toLocaleString("en")} of ${this.all.length.toLocaleString("en")} symbols`;
    this.list.element.scrollTop = 0;
    this.list.setCount(this.found.length);
  }

  private key(event: KeyboardEvent): void {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12 }[event.key];
    if (step !== undefined) {
      this.cursor = Math.min(Math.max(this.cursor + step, 0), this.found.length - 1);
      this.list.scrollTo(this.cursor);
    } else if (event.key === "Enter" && this.cursor >= 0 && this.found.length) {
      this.open(this.found[this.cursor]);
    } else if (event.key === "Escape") {
      this.search.value = "";
      this.filter();
      this.search.blur();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private row(at: number): HTMLElement {
    const graph = this.graph!;
    const symbol = this.found[at];
    const block = graph.symbolBlock[symbol];
    const defined = DEFINITIONS[graph.definition[symbol]];
    const sort = !block ? "outside" : !graph.live[block] ? "dropped" : graph.isCode(block) ? "code" : "data";
    const size = graph.symbolSize[symbol];
    const made = el(
      "div",
      { class: `symbol ${sort}`, role: "option", "aria-selected": String(symbol === this.selected) },
      el("span", { class: "name" }, graph.symbolText(symbol)),
      el("span", { class: "note" }, block ? (size ? bytesText(size) : "") : defined),
    );
    if (at === this.cursor) made.classList.add("cursor");
    made.addEventListener("click", () => this.open(symbol));
    return made;
  }
}

const LOCAL = 2;
const UNDEFINED = 0;

// The symbols of the list: of several references to a name that is defined, or of several that nobody defines,
// one is enough. Names that compilers make up, which start with a dot, come last.
function listed(graph: Graph): number[] {
  const rows: number[] = [];
  const seen = new Map<string, number>();
  for (let row = 1; row < graph.symbolCount; row++) {
    if (!graph.isNamed(row)) continue;
    const name = graph.symbolText(row);
    const known = graph.scope[row] === LOCAL ? undefined : seen.get(name);
    if (known === undefined) {
      if (graph.scope[row] !== LOCAL) seen.set(name, rows.length);
      rows.push(row);
    } else if (graph.definition[rows[known]] === UNDEFINED) {
      rows[known] = row;
    }
  }
  const key = (row: number) => (graph.symbolText(row).startsWith(".") ? "\u{10ffff}" : "") + graph.symbolText(row);
  const keys = new Map(rows.map((row) => [row, key(row)]));
  return rows.sort((a, b) => compare(keys.get(a)!, keys.get(b)!));
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

// How well a name matches: best if it is the wanted text, then if it starts with it, holds it, or has its letters
// in order; 0 if it does not match at all.
function match(name: string, wanted: string): number {
  if (!wanted) return 1;
  const at = name.indexOf(wanted);
  if (at >= 0) return (name.length === wanted.length ? 4000 : at === 0 ? 3000 : 2000) - Math.min(name.length, 900);
  let place = -1;
  for (const letter of wanted) {
    place = name.indexOf(letter, place + 1);
    if (place < 0) return 0;
  }
  return 1000 - Math.min(name.length, 900);
}
