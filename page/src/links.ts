// The graph view: starts from one block and grows by click, since whole link graphs are too large to draw.

import cytoscape from "cytoscape";
import dagre from "cytoscape-dagre";
import { button, el } from "./dom";
import type { Graph } from "./graph";

cytoscape.use(dagre);

const MOST_NEIGHBOURS = 24;
const LETTER_WIDTH = 6.7;
const LARGEST_ZOOM = 1.25;

export class GraphView {
  readonly element = el("section", { class: "view graph", "aria-label": "graph of references" });
  private readonly info = el("p", { class: "info", role: "status" });
  private readonly space = el("div", { class: "canvas" });
  private drawing: cytoscape.Core | null = null;
  private graph: Graph | null = null;
  private center = "";

  constructor(private readonly open: (node: { symbol: number; block: number }) => void) {
    const tools = el("div", { class: "tools" });
    tools.append(
      button("who refers to it", () => this.grow(this.chosen(), "in")),
      button("what it refers to", () => this.grow(this.chosen(), "out")),
      button("fit", () => this.drawing?.fit(undefined, 30)),
      button("start again", () => this.graph && this.start(this.center)),
    );
    this.element.append(this.info, tools, this.space);
  }

  show(graph: Graph, symbol: number, block: number): void {
    const center = block ? `b${block}` : symbol ? `s${symbol}` : "";
    const again = graph !== this.graph;
    this.graph = graph;
    if (!center) {
      this.info.textContent = "";
      this.space.replaceChildren(el("p", { class: "empty" }, "Choose a symbol on the left, and its references are drawn here."));
      this.drawing = null;
      this.center = "";
      return;
    }
    if (!again && this.drawing && this.drawing.getElementById(center).nonempty()) {
      this.choose(center);
      return;
    }
    this.start(center);
  }

  // Take the colours of the page anew.
  recolour(): void {
    this.drawing?.style(style());
  }

  private start(center: string): void {
    this.center = center;
    this.space.replaceChildren();
    this.drawing = cytoscape({ container: this.space, style: style(), maxZoom: 3, minZoom: 0.05 });
    this.drawing.on("tap", "node", (event) => {
      const id = event.target.id() as string;
      this.choose(id);
      this.grow(id, "out");
      this.open(row(id));
    });
    this.add(center);
    this.grow(center, "out");
    this.grow(center, "in");
    this.choose(center);
  }

  private chosen(): string {
    const found = this.drawing?.nodes(":selected");
    return found && found.nonempty() ? (found[0].id() as string) : this.center;
  }

  private choose(id: string): void {
    this.drawing?.nodes().unselect();
    this.drawing?.getElementById(id).select();
  }

  private add(id: string): boolean {
    const graph = this.graph!;
    if (this.drawing!.getElementById(id).nonempty()) return false;
    const { symbol, block } = row(id);
    const label = block ? graph.blockText(block) : graph.symbolText(symbol);
    const sort = !block ? "outside" : !graph.live[block] ? "dropped" : graph.isCode(block) ? "code" : "data";
    const shown = label.length > 40 ? `${label.slice(0, 39)}…` : label;
    this.drawing!.add({ data: { id, label: shown, sort, width: shown.length * LETTER_WIDTH + 16 } });
    return true;
  }

  private grow(id: string, way: "in" | "out"): void {
    const graph = this.graph;
    if (!graph || !this.drawing || !id) return;
    const found = way === "out" ? outgoing(graph, row(id)) : incoming(graph, row(id));
    let added = 0;
    for (const [other, kinds] of [...found].slice(0, MOST_NEIGHBOURS)) {
      added += Number(this.add(other));
      const [source, target] = way === "out" ? [id, other] : [other, id];
      const edge = `${source}>${target}`;
      if (this.drawing.getElementById(edge).empty())
        this.drawing.add({ data: { id: edge, source, target, label: [...kinds].slice(0, 2).join(", ") } });
    }
    const more = found.size - MOST_NEIGHBOURS;
    const verb = way === "out" ? "refers to" : "is referred to by";
    this.info.textContent =
      `${this.drawing.getElementById(id).data("label")} ${verb} ${found.size.toLocaleString("en")} others` +
      (more > 0 ? `; the first ${MOST_NEIGHBOURS} are drawn` : "");
    if (added) this.layOut();
    // A canvas says nothing to those who do not see it.
    this.space.setAttribute("role", "img");
    this.space.setAttribute("aria-label", this.drawing.nodes().map((node) => node.data("label") as string).join(", "));
  }

  private layOut(): void {
    const layout = { name: "dagre", rankDir: "LR", nodeSep: 14, rankSep: 70, fit: true, padding: 30, animate: false };
    this.drawing!.layout(layout as cytoscape.LayoutOptions).run();
    // A few nodes need not fill the whole space.
    if (this.drawing!.zoom() > LARGEST_ZOOM) {
      this.drawing!.zoom(LARGEST_ZOOM);
      this.drawing!.center();
    }
  }
}

function row(id: string): { symbol: number; block: number } {
  const number = Number(id.slice(1));
  return id.startsWith("b") ? { symbol: 0, block: number } : { symbol: number, block: 0 };
}

type Neighbours = Map<string, Set<string>>;

function outgoing(graph: Graph, of: { block: number }): Neighbours {
  const found: Neighbours = new Map();
  if (!of.block) return found;
  for (let edge = graph.firstEdge[of.block]; edge < graph.firstEdge[of.block + 1]; edge++) {
    const target = graph.edgeTarget[edge];
    const block = graph.symbolBlock[target];
    if (target && block !== of.block) note(found, block ? `b${block}` : `s${target}`, graph, edge);
  }
  return found;
}

function incoming(graph: Graph, of: { symbol: number; block: number }): Neighbours {
  const found: Neighbours = new Map();
  if (of.block) {
    for (let at = graph.firstIncoming[of.block]; at < graph.firstIncoming[of.block + 1]; at++) {
      const edge = graph.incoming[at];
      if (graph.edgeBlock[edge] !== of.block) note(found, `b${graph.edgeBlock[edge]}`, graph, edge);
    }
    return found;
  }
  for (let at = graph.firstIncoming[0]; at < graph.firstIncoming[1]; at++) {
    const edge = graph.incoming[at];
    if (graph.edgeTarget[edge] === of.symbol && graph.edgeBlock[edge]) note(found, `b${graph.edgeBlock[edge]}`, graph, edge);
  }
  return found;
}

function note(found: Neighbours, id: string, graph: Graph, edge: number): void {
  const kinds = found.get(id) ?? new Set<string>();
  kinds.add(graph.kind(edge)?.name ?? "");
  found.set(id, kinds);
}

// Colours come from the page's own variables, so that dark and light are decided in one place.
function style(): cytoscape.StylesheetJson {
  const of = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const box = { shape: "round-rectangle", width: "data(width)", height: 30 };
  return [
    {
      selector: "node",
      style: {
        ...box, label: "data(label)", "text-valign": "center", "font-family": "ui-monospace, monospace", "font-size": 11,
        color: of("--ink"), "background-color": of("--data"), "border-width": 1, "border-color": of("--line"),
      },
    },
    { selector: 'node[sort="code"]', style: { "background-color": of("--code") } },
    { selector: 'node[sort="outside"]', style: { "background-color": of("--outside"), "border-style": "dashed" } },
    { selector: 'node[sort="dropped"]', style: { opacity: 0.45, "border-style": "dashed" } },
    { selector: "node:selected", style: { "border-width": 3, "border-color": of("--accent") } },
    {
      selector: "edge",
      style: {
        width: 1.2, "line-color": of("--line"), "target-arrow-color": of("--line"), "target-arrow-shape": "triangle",
        "curve-style": "bezier", label: "data(label)", "font-size": 8, color: of("--faint"),
        "text-background-color": of("--paper"), "text-background-opacity": 1, "text-background-padding": "1px",
      },
    },
  ] as unknown as cytoscape.StylesheetJson;
}
