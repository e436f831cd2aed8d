// Making elements. Text is always text: nothing here takes markup.

type Child = Node | string | null;

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const child of children) if (child !== null) made.append(child);
  return made;
}

export function button(text: string, act: () => void, attributes: Record<string, string> = {}): HTMLButtonElement {
  const made = el("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", act);
  return made;
}

// A list of rows of one height, of which only those in sight are in the document.
export class VirtualList {
  readonly element: HTMLElement;
  private readonly space: HTMLElement;
  private count = 0;
  private shown: [number, number] = [-1, -1];
  // Browsers do not scroll further than some tens of millions of pixels: beyond that, rows are skipped.
  private readonly mostPixels = 15_000_000;

  constructor(
    private readonly rowHeight: number,
    private readonly make: (row: number) => HTMLElement,
    label: string,
    role = "listbox",
  ) {
    this.space = el("div", { class: "space" });
    this.element = el("div", { class: "virtual", tabindex: "0", role, "aria-label": label }, this.space);
    this.element.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw(true)).observe(this.element);
  }

  private get scale(): number {
    return Math.max((this.count * this.rowHeight) / this.mostPixels, 1);
  }

  setCount(count: number): void {
    this.count = count;
    this.space.style.height = `${Math.min(count * this.rowHeight, this.mostPixels)}px`;
    this.draw(true);
  }

  scrollTo(row: number): void {
    const top = (row * this.rowHeight) / this.scale;
    const height = this.element.clientHeight;
    if (top < this.element.scrollTop || top > this.element.scrollTop + height - 2 * this.rowHeight) {
      this.element.scrollTop = Math.max(top - height / 3, 0);
    }
    this.draw(true);
  }

  draw(force = false): void {
    const top = this.element.scrollTop;
    const first = Math.max(Math.floor((top * this.scale) / this.rowHeight) - 4, 0);
    const last = Math.min(first + Math.ceil(this.element.clientHeight / this.rowHeight) + 8, this.count);
    if (!force && first === this.shown[0] && last === this.shown[1]) return;
    this.shown = [first, last];
    const rows = [];
    const shift = top - (top * this.scale - first * this.rowHeight);
    for (let row = first; row < last; row++) {
      const made = this.make(row);
      made.style.top = `${(this.scale > 1 ? shift : first * this.rowHeight) + (row - first) * this.rowHeight}px`;
      rows.push(made);
    }
    this.space.replaceChildren(...rows);
  }
}
