// The map: inputs, their sections and blocks as tiles of their sizes.

import { hierarchy, treemap, type HierarchyRectangularNode } from "d3-hierarchy";
import { el } from "./dom";
import { bytesText, type Graph } from "./graph";

interface Part {
  name: string;
  block?: number;
  size?: number;
  children?: Part[];
}

const LARGEST_NUMBER = 4000;
const SVG = "http://www.w3.org/2000/svg";

export class MapView {
  readonly element = el("section", { class: "view map", "aria-label": "map of sizes" });
  private readonly info = el("p", { class: "info", role: "status" });
  private readonly space = el("div", { class: "canvas" });
  private graph: Graph | null = null;
  private selected = 0;

  constructor(private readonly open: (block: number) => void) {
    this.element.append(this.info, this.space);
    new ResizeObserver(() => this.draw()).observe(this.space);
  }

  show(graph: Graph, block: number): void {
    this.graph = graph;
    this.selected = block;
    this.draw();
  }

  private draw(): void {
    const graph = this.graph;
    const { clientWidth: width, clientHeight: height } = this.space;
    if (!graph || !width || !height) return;
    const [root, left] = parts(graph);
    const sized = hierarchy(root).sum((part) => part.size ?? 0).sort((a, b) => (b.value ?? 0) - (a.value ?? 0));
    const laid = treemap<Part>().size([width, height]).paddingOuter(2).paddingTop(16).paddingInner(1).round(true)(sized);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "group");
    laid.children?.forEach((input, number) => {
      for (const node of input.descendants()) this.tile(graph, node, number, svg);
    });
    this.space.replaceChildren(svg);
    const dropped = left ? `; ${left.toLocaleString("en")} small blocks are not drawn` : "";
    this.info.textContent = `${bytesText(laid.value ?? 0)} in ${laid.children?.length ?? 0} inputs${dropped}`;
    if (!laid.value) this.space.replaceChildren(el("p", { class: "empty" }, "There are no bytes at this stage."));
  }

  private tile(graph: Graph, node: HierarchyRectangularNode<Part>, number: number, svg: SVGElement): void {
    const [width, height] = [node.x1 - node.x0, node.y1 - node.y0];
    if (width < 1 || height < 1) return;
    const group = document.createElementNS(SVG, "g");
    const title = document.createElementNS(SVG, "title");
    const block = node.data.block;
    const names = node.ancestors().reverse().slice(1).map((each) => each.data.name);
    title.textContent = `${names.join("  ")}: ${bytesText(node.value ?? 0)}`;
    const box = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: node.x0, y: node.y0, width, height }))
      box.setAttribute(name, String(value));
    box.setAttribute("class", block ? `tile depth${node.depth} ${sort(graph, block)}` : `tile depth${node.depth}`);
    if (node.depth === 1) box.style.setProperty("--hue", String((number * 47) % 360));
    group.append(title, box);
    const fitting = Math.floor((width - 6) / 6.6);
    if (fitting >= 3 && height >= 14) {
      const text = document.createElementNS(SVG, "text");
      text.setAttribute("x", String(node.x0 + 4));
      text.setAttribute("y", String(node.y0 + 12));
      text.setAttribute("class", `depth${node.depth}`);
      text.textContent = node.data.name.length <= fitting ? node.data.name : `${node.data.name.slice(0, fitting - 1)}…`;
      group.append(text);
    }
    if (block) {
      group.setAttribute("class", block === this.selected ? "block selected" : "block");
      group.addEventListener("click", () => this.open(block));
    }
    svg.append(group);
  }
}

function sort(graph: Graph, block: number): string {
  if (graph.isCode(block)) return "code";
  if (graph.zeroFill[block]) return "zeroes";
  return graph.isWritable(block) ? "data" : "constants";
}

// Inputs, sections and blocks of the image; how many blocks were left out, the smallest ones.
function parts(graph: Graph): [Part, number] {
  const blocks: number[] = [];
  for (let block = 1; block < graph.blockCount; block++)
    if (graph.live[block] && graph.blockSize[block] > 0) blocks.push(block);
  blocks.sort((a, b) => graph.blockSize[b] - graph.blockSize[a]);
  const inputs = new Map<number, Map<string, Part[]>>();
  for (const block of blocks.slice(0, LARGEST_NUMBER)) {
    const input = graph.sectionInput[graph.blockSection[block]];
    const sections = inputs.get(input) ?? new Map<string, Part[]>();
    inputs.set(input, sections);
    const section = graph.sectionText(block).split(/(?<=^\.[a-z]+)\./)[0];
    const found = sections.get(section) ?? [];
    sections.set(section, found);
    found.push({ name: graph.blockText(block), block, size: graph.blockSize[block] });
  }
  const children = [...inputs].map(([input, sections]) => ({
    name: graph.report.inputs[input],
    children: [...sections].map(([name, children]) => ({ name, children })),
  }));
  return [{ name: "", children }, Math.max(blocks.length - LARGEST_NUMBER, 0)];
}
