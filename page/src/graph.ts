// The link graph at one stage, as columns, with what the views ask of it.

import { Columns, type Kind, type Report } from "./data";

export const DEFINITIONS = ["undefined", "defined", "absolute", "common", "external", "alias"];
export const SCOPES = ["default", "hidden", "local"];
export const STAGE_WORDS: Record<string, string> = {
  pre_prune: "as read",
  post_prune: "pruned",
  post_allocation: "allocated",
  fixed_up: "fixed up",
};
const SECTION_SYMBOL = 3;
const FILE_SYMBOL = 4;
const WRITE = 2;
const EXECUTE = 4;

export interface Code {
  offsets: Int32Array;
  texts: string[];
  first: number;
  last: number;
}

export class Graph {
  strings!: string[];
  sectionName!: Int32Array;
  sectionInput!: Int32Array;
  protection!: Uint8Array;
  blockSection!: Int32Array;
  blockSize!: Float64Array;
  zeroFill!: Uint8Array;
  live!: Uint8Array;
  blockAddress!: BigUint64Array;
  symbolName!: Int32Array;
  symbolBlock!: Int32Array;
  symbolOffset!: Float64Array;
  symbolSize!: Float64Array;
  scope!: Uint8Array;
  linkage!: Uint8Array;
  definition!: Uint8Array;
  symbolKind!: Uint8Array;
  symbolInput!: Int32Array;
  symbolAddress: BigUint64Array | null = null;
  edgeBlock!: Int32Array;
  edgeOffset!: Float64Array;
  edgeKind!: Int32Array;
  edgeTarget!: Int32Array;
  addend!: Float64Array;
  value: BigUint64Array | null = null;
  // Edges are sorted by block; those of block b are firstEdge[b] up to firstEdge[b + 1].
  firstEdge!: Int32Array;
  // Edges by the block that their target lies in, and symbols by their block.
  incoming!: Int32Array;
  firstIncoming!: Int32Array;
  symbolsOf!: Int32Array;
  firstSymbol!: Int32Array;
  private starts!: Int32Array;
  private content!: Uint8Array;
  private readonly codeRow = new Map<number, number>();
  private codeFirst!: Int32Array;
  private codeOffsets!: Int32Array;
  private codeTexts!: string[];

  private constructor(
    readonly report: Report,
    readonly stage: string,
  ) {}

  static async load(report: Report, columns: Columns, stage: string): Promise<Graph> {
    const graph = new Graph(report, stage);
    const { sections, blocks, symbols, edges } = report.stages[stage];
    const state = (stage === "fixed_up" && report.states.after) || report.states.before;
    [
      graph.strings, graph.sectionName, graph.sectionInput, graph.protection,
      graph.blockSection, graph.blockSize, graph.zeroFill, graph.live, graph.blockAddress,
      graph.symbolName, graph.symbolBlock, graph.symbolOffset, graph.symbolSize,
      graph.scope, graph.linkage, graph.definition, graph.symbolKind, graph.symbolInput,
      graph.edgeBlock, graph.edgeOffset, graph.edgeKind, graph.edgeTarget, graph.addend,
      graph.starts, graph.content, graph.codeFirst, graph.codeOffsets, graph.codeTexts,
    ] = await Promise.all([
      columns.lines(report.strings), columns.numbers(sections.name), columns.numbers(sections.input),
      columns.small(sections.protection),
      columns.numbers(blocks.section), columns.floats(blocks.size), columns.small(blocks.zero_fill),
      columns.small(blocks.live), columns.addresses(blocks.address),
      columns.numbers(symbols.name), columns.numbers(symbols.block), columns.floats(symbols.offset),
      columns.floats(symbols.size), columns.small(symbols.scope), columns.small(symbols.linkage),
      columns.small(symbols.definition), columns.small(symbols.kind), columns.numbers(symbols.input),
      columns.numbers(edges.block), columns.floats(edges.offset), columns.numbers(edges.kind),
      columns.numbers(edges.target), columns.floats(edges.addend),
      columns.numbers(state.starts), columns.small(state.content), columns.numbers(state.codeFirst),
      columns.numbers(state.codeOffsets), columns.lines(state.codeTexts),
    ]);
    if ("value" in edges) graph.value = await columns.addresses(edges.value);
    if ("address" in symbols) graph.symbolAddress = await columns.addresses(symbols.address);
    const codeBlocks = await columns.numbers(state.codeBlocks);
    codeBlocks.forEach((block, row) => graph.codeRow.set(block, row));
    graph.index();
    return graph;
  }

  private index(): void {
    const blocks = this.blockSection.length;
    const targetBlock = this.edgeTarget.map((symbol) => this.symbolBlock[symbol]);
    [, this.firstEdge] = grouped(this.edgeBlock, blocks);
    [this.incoming, this.firstIncoming] = grouped(targetBlock, blocks);
    [this.symbolsOf, this.firstSymbol] = grouped(this.symbolBlock, blocks);
  }

  get allocated(): boolean {
    return this.symbolAddress !== null;
  }

  get blockCount(): number {
    return this.blockSection.length;
  }

  get symbolCount(): number {
    return this.symbolName.length;
  }

  kind(edge: number): Kind | undefined {
    return this.report.kinds[this.edgeKind[edge]];
  }

  symbolText(symbol: number): string {
    const name = this.strings[this.symbolName[symbol]];
    if (name) return name;
    const block = this.symbolBlock[symbol];
    return block ? this.sectionText(block) : "(no name)";
  }

  sectionText(block: number): string {
    return this.strings[this.sectionName[this.blockSection[block]]] || "(no name)";
  }

  inputText(block: number): string {
    return this.report.inputs[this.sectionInput[this.blockSection[block]]];
  }

  // The symbols that a block defines, by rising offset, without those that stand for sections and files.
  named(block: number): number[] {
    const rows = [...this.symbolsOf.subarray(this.firstSymbol[block], this.firstSymbol[block + 1])];
    return rows.filter((row) => this.isNamed(row)).sort((a, b) => this.symbolOffset[a] - this.symbolOffset[b]);
  }

  isNamed(symbol: number): boolean {
    const kind = this.symbolKind[symbol];
    return kind !== SECTION_SYMBOL && kind !== FILE_SYMBOL && this.strings[this.symbolName[symbol]] !== "";
  }

  // What a block is called: its first symbol, else its section.
  blockText(block: number): string {
    let best = -1;
    for (let at = this.firstSymbol[block]; at < this.firstSymbol[block + 1]; at++) {
      const row = this.symbolsOf[at];
      if (this.isNamed(row) && (best < 0 || this.symbolOffset[row] < this.symbolOffset[best])) best = row;
    }
    return best < 0 ? this.sectionText(block) : this.symbolText(best);
  }

  isCode(block: number): boolean {
    return (this.protection[this.blockSection[block]] & EXECUTE) !== 0;
  }

  isWritable(block: number): boolean {
    return (this.protection[this.blockSection[block]] & WRITE) !== 0;
  }

  protectionText(block: number): string {
    const bits = this.protection[this.blockSection[block]];
    return (bits & 1 ? "r" : "-") + (bits & WRITE ? "w" : "-") + (bits & EXECUTE ? "x" : "-");
  }

  targetText(edge: number): string {
    const addend = this.addend[edge];
    const sign = addend < 0 ? " - " : " + ";
    return this.symbolText(this.edgeTarget[edge]) + (addend ? sign + hex(Math.abs(addend)) : "");
  }

  // What to open for the target of an edge: a symbol for a section stands for its block.
  target(edge: number): { symbol: number; block: number } {
    const symbol = this.edgeTarget[edge];
    const block = this.symbolBlock[symbol];
    return { symbol: block && !this.isNamed(symbol) ? 0 : symbol, block };
  }

  bytes(block: number): Uint8Array {
    if (block + 1 >= this.starts.length) return new Uint8Array(0);
    return this.content.subarray(this.starts[block], this.starts[block + 1]);
  }

  code(block: number): Code | null {
    const row = this.codeRow.get(block);
    if (row === undefined) return null;
    const first = this.codeFirst[row];
    return { offsets: this.codeOffsets, texts: this.codeTexts, first, last: this.codeFirst[row + 1] };
  }

  // The letters of a formula with their numbers; empty before there are addresses.
  letters(edge: number): [string, string, string][] {
    const kind = this.kind(edge);
    if (!kind || !this.symbolAddress || !kind.formula) return [];
    const target = this.symbolAddress[this.edgeTarget[edge]];
    const place = this.blockAddress[this.edgeBlock[edge]] + BigInt(this.edgeOffset[edge]);
    const got = BigInt(this.report.got);
    const known: Record<string, [bigint, string]> = {
      S: [target, "symbol"],
      L: [target, "symbol, or its stub"],
      P: [place, "place"],
      A: [BigInt(this.addend[edge]), "addend"],
      GOT: [got, "GOT"],
      G: [target - got, "GOT entry, in the GOT"],
    };
    const used = kind.formula.match(/[A-Za-z]+/g) ?? [];
    return [...new Set(used)].filter((name) => name in known).map((name) => [name, hex(known[name][0]), known[name][1]]);
  }

  result(edge: number): string {
    const kind = this.kind(edge);
    if (!this.value || !kind?.formula) return "";
    const value = this.value[edge];
    return hex(kind.signed ? BigInt.asIntN(64, value) : value);
  }
}

export function hex(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}

export function bytesText(count: number): string {
  if (count < 10_000) return `${count.toLocaleString("en")} B`;
  if (count < 10_000_000) return `${(count / 1024).toLocaleString("en", { maximumFractionDigits: 1 })} KiB`;
  return `${(count / 1024 / 1024).toLocaleString("en", { maximumFractionDigits: 1 })} MiB`;
}

// Sorts rows by a small key; those of key k are rows[first[k]] up to rows[first[k + 1]].
function grouped(key: Int32Array, keys: number): [Int32Array, Int32Array] {
  const first = new Int32Array(keys + 1);
  for (let row = 0; row < key.length; row++) first[key[row] + 1]++;
  for (let each = 0; each < keys; each++) first[each + 1] += first[each];
  const next = first.slice();
  const rows = new Int32Array(key.length);
  for (let row = 0; row < key.length; row++) rows[next[key[row]]++] = row;
  return [rows, first];
}
