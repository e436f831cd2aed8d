// What is known of the symbol or block that is chosen, and the tip over a relocation.

import { button, el } from "./dom";
import { bytesText, DEFINITIONS, hex, SCOPES, STAGE_WORDS, type Graph } from "./graph";
import type { View } from "./state";

const MOST_ROWS = 60;
const ROOT = -1;
const UNREACHED = -2;

type Open = (target: { symbol: number; block: number; view?: View }) => void;

export class Details {
  readonly element = el("aside", { class: "details", "aria-label": "details" });

  constructor(private readonly open: Open) {}

  show(graph: Graph, symbol: number, block: number, roots: Int32Array): void {
    const parts: (HTMLElement | null)[] = [];
    if (symbol) parts.push(...this.symbol(graph, symbol));
    else if (block) parts.push(el("h2", {}, graph.blockText(block)));
    else parts.push(el("h2", {}, graph.report.title), this.overview(graph));
    if (block) parts.push(...this.block(graph, block, roots));
    if (symbol && !block) parts.push(this.references("referred to by", graph, this.askers(graph, symbol), "in"));
    this.element.replaceChildren(...parts.filter((part): part is HTMLElement => part !== null));
  }

  private overview(graph: Graph): HTMLElement {
    const { report } = graph;
    const facts = facts_([
      ["machine", report.target],
      ["stage", STAGE_WORDS[graph.stage]],
      ["inputs", (report.inputs.length - 1).toLocaleString("en")],
      ["blocks", (graph.blockCount - 1).toLocaleString("en")],
      ["symbols", (graph.symbolCount - 1).toLocaleString("en")],
      ["edges", (graph.edgeBlock.length - 1).toLocaleString("en")],
    ]);
    if (report.exports.length) facts.append(el("dt", {}, "exports"), el("dd", {}, report.exports.join(", ")));
    const made = el("div", {}, facts);
    if (report.error) made.append(el("h3", {}, "the link failed"), el("pre", { class: "error" }, report.error));
    if (report.placeholders.length) {
      made.append(el("h3", {}, "defined by nobody"), el("p", { class: "hint" }, "Their addresses are made up."));
      made.append(el("p", { class: "names" }, report.placeholders.slice(0, MOST_ROWS).join("  ")));
      const more = report.placeholders.length - MOST_ROWS;
      if (more > 0) made.append(el("p", { class: "hint" }, `and ${more.toLocaleString("en")} more`));
    }
    return made;
  }

  private symbol(graph: Graph, symbol: number): HTMLElement[] {
    const block = graph.symbolBlock[symbol];
    const address = graph.symbolAddress?.[symbol];
    const made = graph.report.placeholders.includes(graph.symbolText(symbol)) ? " (made up: nobody defines it)" : "";
    const rows: [string, string][] = [
      ["is", `${graph.linkage[symbol] ? "weak" : "strong"}, ${SCOPES[graph.scope[symbol]]}, ${graph.report.symbolKinds[graph.symbolKind[symbol]] ?? graph.symbolKind[symbol]}`],
      ["definition", DEFINITIONS[graph.definition[symbol]] + made],
      ["size", bytesText(graph.symbolSize[symbol])],
    ];
    if (block) rows.push(["place", `${graph.sectionText(block)}, block of ${graph.blockText(block)} + ${hex(graph.symbolOffset[symbol])}`]);
    if (address && (!block || graph.live[block])) rows.push(["address", hex(address)]);
    return [el("h2", {}, graph.symbolText(symbol)), facts_(rows)];
  }

  private block(graph: Graph, block: number, roots: Int32Array): (HTMLElement | null)[] {
    const rows: [string, string][] = [
      ["section", `${graph.sectionText(block)}  ${graph.protectionText(block)}`],
      ["block", bytesText(graph.blockSize[block])],
      ["input", graph.inputText(block)],
    ];
    if (!graph.live[block]) rows.push(["state", "dropped from the link"]);
    else if (graph.allocated) rows.push(["at", hex(graph.blockAddress[block])]);
    return [
      facts_(rows),
      el("div", { class: "tools" }, button("listing", () => this.open({ symbol: 0, block, view: "listing" })), button("graph", () => this.open({ symbol: 0, block, view: "graph" }))),
      this.chain(graph, block, roots),
      this.references("refers to", graph, range(graph.firstEdge[block], graph.firstEdge[block + 1]), "out"),
      this.references("referred to by", graph, [...graph.incoming.subarray(graph.firstIncoming[block], graph.firstIncoming[block + 1])], "in"),
    ];
  }

  // From which root the block is reached, block by block.
  private chain(graph: Graph, block: number, roots: Int32Array): HTMLElement | null {
    if (block >= roots.length) return el("p", { class: "hint" }, "Made by the linker.");
    if (!graph.live[block]) return el("p", { class: "hint" }, "No root of the link reaches it.");
    if (roots[block] === UNREACHED) return el("p", { class: "hint" }, "Kept for a tie, not for a reference to it.");
    const steps = [block];
    while (roots[steps[0]] > 0 && steps.length < 200) steps.unshift(roots[steps[0]]);
    const list = el("ol", { class: "chain" });
    for (const step of steps) list.append(el("li", {}, button(graph.blockText(step), () => this.open({ symbol: 0, block: step }))));
    const words = roots[steps[0]] === ROOT && steps.length === 1 ? "it is a root of the link" : "why it is here";
    return el("div", {}, el("h3", {}, words), list);
  }

  private references(title: string, graph: Graph, edges: number[], way: "in" | "out"): HTMLElement | null {
    const shown = edges.filter((edge) => edge > 0);
    if (!shown.length) return null;
    const list = el("ul", { class: "references" });
    for (const edge of shown.slice(0, MOST_ROWS)) {
      const block = graph.edgeBlock[edge];
      const text = way === "out" ? graph.targetText(edge) : `${graph.blockText(block)} + ${hex(graph.edgeOffset[edge])}`;
      const target = way === "out" ? graph.target(edge) : { symbol: 0, block };
      list.append(el("li", {}, button(text, () => this.open(target)), el("em", {}, graph.kind(edge)?.name ?? "")));
    }
    const more = shown.length - MOST_ROWS;
    const rest = more > 0 ? el("p", { class: "hint" }, `and ${more.toLocaleString("en")} more`) : null;
    return el("div", {}, el("h3", {}, `${title} (${shown.length.toLocaleString("en")})`), list, rest);
  }

  private askers(graph: Graph, symbol: number): number[] {
    const rows = [...graph.incoming.subarray(graph.firstIncoming[0], graph.firstIncoming[1])];
    return rows.filter((edge) => graph.edgeTarget[edge] === symbol);
  }
}

function facts_(rows: [string, string][]): HTMLElement {
  const list = el("dl", {});
  for (const [name, value] of rows) list.append(el("dt", {}, name), el("dd", {}, value));
  return list;
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first }, (_, at) => first + at);
}

// What a relocation computes: over the relocation that the pointer or the focus is on.
export class Tip {
  readonly element = el("div", { class: "tip", role: "tooltip", hidden: "" });

  show(graph: Graph | null, edge: number | null, at: HTMLElement | null): void {
    const kind = graph && edge !== null ? graph.kind(edge) : undefined;
    if (!graph || edge === null || !at || !kind) {
      this.element.hidden = true;
      return;
    }
    const letters = graph.letters(edge);
    const rows: [string, string][] = letters.map(([name, value, words]) => [name, `${value}  ${words}`]);
    const result = graph.result(edge);
    const numbers = Object.fromEntries(letters.map(([name, value]) => [name, value]));
    const worked = kind.formula.replace(/[A-Za-z]+/g, (name) => numbers[name] ?? name);
    this.element.replaceChildren(
      el("b", {}, kind.name),
      el("p", {}, kind.words),
      facts_([["target", graph.targetText(edge)], ["field", `${kind.field} at + ${hex(graph.edgeOffset[edge])}`], ["range", kind.check], ...rows]),
      result ? el("p", { class: "result" }, `${worked} = ${result}`) : el("p", { class: "hint" }, "There are no addresses at this stage."),
      kind.source ? el("p", { class: "hint" }, kind.source) : "",
    );
    this.element.hidden = false;
    const box = at.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const below = box.bottom + height + 8 < window.innerHeight;
    this.element.style.left = `${Math.max(Math.min(box.left, window.innerWidth - width - 8), 8)}px`;
    this.element.style.top = `${below ? box.bottom + 6 : Math.max(box.top - height - 6, 8)}px`;
  }
}
