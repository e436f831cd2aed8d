// The listing: every block, with its instructions or bytes, and the relocations on the lines that they patch.

import { el, VirtualList } from "./dom";
import { bytesText, hex, type Graph } from "./graph";

const ROW_HEIGHT = 20;
const BYTES_A_LINE = 8;

interface Line {
  block: number;
  // The start of the line in its block, or -1 for the heading of the block.
  offset: number;
  text: string;
  bytes: string;
  label: string;
  edge: number;
}

export class ListingView {
  readonly element = el("section", { class: "view listing", "aria-label": "listing" });
  private readonly list: VirtualList;
  private graph: Graph | null = null;
  private blocks: number[] = [];
  // How many lines the blocks before each one have.
  private before: number[] = [0];
  private readonly lines = new Map<number, Line[]>();
  private selected = 0;
  private symbol = 0;

  constructor(
    private readonly open: (target: { symbol: number; block: number }) => void,
    private readonly hover: (edge: number | null, at: HTMLElement | null) => void,
  ) {
    this.list = new VirtualList(ROW_HEIGHT, (row) => this.row(row), "listing", "document");
    this.element.append(this.list.element);
  }

  show(graph: Graph, symbol: number, block: number): void {
    if (graph !== this.graph) this.take(graph);
    this.selected = block;
    this.symbol = symbol;
    const place = this.blocks.indexOf(block);
    if (place >= 0) this.list.scrollTo(this.before[place] + this.lineOf(graph, symbol, block));
    this.list.draw(true);
  }

  // Which line of its block a symbol starts at; the heading for none, and for the first symbol.
  private lineOf(graph: Graph, symbol: number, block: number): number {
    if (!symbol || graph.symbolBlock[symbol] !== block || !graph.symbolOffset[symbol]) return 0;
    const lines = this.linesOf(block);
    const found = lines.findIndex((line) => line.offset >= 0 && line.offset >= graph.symbolOffset[symbol]);
    return Math.max(found, 0);
  }

  private take(graph: Graph): void {
    this.graph = graph;
    this.lines.clear();
    this.blocks = [];
    for (let block = 1; block < graph.blockCount; block++) if (graph.blockSize[block] > 0) this.blocks.push(block);
    this.before = [0];
    for (const block of this.blocks) this.before.push(this.before[this.before.length - 1] + this.count(graph, block));
    this.list.setCount(this.before[this.before.length - 1]);
  }

  // How many lines a block takes: counted without making them, since there may be very many.
  private count(graph: Graph, block: number): number {
    return 1 + starts(graph, block).reduce((sum, start) => sum + start.lines, 0);
  }

  private linesOf(block: number): Line[] {
    let found = this.lines.get(block);
    if (!found) {
      if (this.lines.size > 200) this.lines.clear();
      found = make(this.graph!, block);
      this.lines.set(block, found);
    }
    return found;
  }

  private row(row: number): HTMLElement {
    let low = 0;
    let high = this.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.before[middle] <= row) low = middle;
      else high = middle - 1;
    }
    const block = this.blocks[low];
    return this.element_(this.linesOf(block)[row - this.before[low]], block);
  }

  private element_(line: Line | undefined, block: number): HTMLElement {
    const graph = this.graph!;
    if (!line) return el("div", { class: "line" });
    if (line.offset < 0) {
      const state = graph.live[block] ? "" : " (dropped)";
      const place = graph.allocated && graph.live[block] ? ` at ${hex(graph.blockAddress[block])}` : "";
      const text = `${graph.sectionText(block)}  ${graph.protectionText(block)}  ${bytesText(graph.blockSize[block])}${place}${state}`;
      const kind = block === this.selected ? "line heading selected" : "line heading";
      return el("div", { class: kind }, el("b", {}, line.text), el("span", {}, text), el("i", {}, graph.inputText(block)));
    }
    const shown = el("div", { class: graph.live[block] ? "line" : "line dropped" });
    if (this.symbol && line.label && line.label === graph.symbolText(this.symbol) && block === this.selected)
      shown.classList.add("chosen");
    const address = graph.allocated ? graph.blockAddress[block] + BigInt(line.offset) : BigInt(line.offset);
    shown.append(
      el("span", { class: "address" }, line.text || line.bytes ? address.toString(16) : ""),
      el("span", { class: "hex" }, line.bytes),
      el("span", { class: "label" }, line.label),
      el("span", { class: "text" }, line.text),
    );
    if (line.edge) shown.append(this.relocation(line.edge));
    return shown;
  }

  private relocation(edge: number): HTMLElement {
    const graph = this.graph!;
    const made = el("button", { type: "button", class: "relocation", "data-edge": String(edge) });
    made.append(el("em", {}, graph.kind(edge)?.name ?? ""), el("span", {}, graph.targetText(edge)));
    made.addEventListener("mouseenter", () => this.hover(edge, made));
    made.addEventListener("mouseleave", () => this.hover(null, null));
    made.addEventListener("focus", () => this.hover(edge, made));
    made.addEventListener("blur", () => this.hover(null, null));
    made.addEventListener("click", () => this.open(graph.target(edge)));
    return made;
  }
}

interface Start {
  offset: number;
  end: number;
  text: string;
  lines: number;
  edges: number[];
  labels: number[];
}

// Where lines start in a block: at instructions, or every 8 bytes; with the edges and names that each one has.
function starts(graph: Graph, block: number): Start[] {
  const size = graph.blockSize[block];
  const code = graph.code(block);
  const found: Start[] = [];
  if (code) {
    for (let at = code.first; at < code.last; at++) {
      const end = at + 1 < code.last ? code.offsets[at + 1] : size;
      found.push({ offset: code.offsets[at], end, text: code.texts[at], lines: 1, edges: [], labels: [] });
    }
  } else if (graph.bytes(block).length) {
    for (let offset = 0; offset < size; offset += BYTES_A_LINE) {
      const end = Math.min(offset + BYTES_A_LINE, size);
      found.push({ offset, end, text: "", lines: 1, edges: [], labels: [] });
    }
  } else {
    const text = graph.zeroFill[block] ? "zero-fill" : "(its bytes are not in this page)";
    found.push({ offset: 0, end: size, text, lines: 1, edges: [], labels: [] });
  }
  const at = (offset: number) => {
    let low = 0;
    let high = found.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (found[middle].offset <= offset) low = middle;
      else high = middle - 1;
    }
    return found[low];
  };
  for (let edge = graph.firstEdge[block]; edge < graph.firstEdge[block + 1]; edge++) {
    if (found.length && edge) at(graph.edgeOffset[edge]).edges.push(edge);
  }
  for (const symbol of graph.named(block)) if (found.length) at(graph.symbolOffset[symbol]).labels.push(symbol);
  for (const start of found) start.lines = Math.max(start.labels.length, start.edges.length, 1);
  return found;
}

function make(graph: Graph, block: number): Line[] {
  const lines: Line[] = [{ block, offset: -1, text: graph.blockText(block), bytes: "", label: "", edge: 0 }];
  const bytes = graph.bytes(block);
  for (const start of starts(graph, block)) {
    for (let number = 0; number < start.lines; number++) {
      const symbol = start.labels[number];
      const first = number === 0;
      lines.push({
        block,
        offset: start.offset,
        text: first ? start.text : "",
        bytes: first ? hexText(bytes.subarray(start.offset, start.end)) : "",
        label: symbol === undefined ? "" : graph.symbolText(symbol),
        edge: start.edges[number] ?? 0,
      });
    }
  }
  return lines;
}

function hexText(bytes: Uint8Array): string {
  const text = [...bytes.subarray(0, BYTES_A_LINE)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return bytes.length > BYTES_A_LINE ? `${text}\u2026` : text;
}
