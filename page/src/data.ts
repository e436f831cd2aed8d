// The data that jitlink/inspect/page/data.py puts into the page: packed columns, unpacked here when asked for.

export const VERSION = 1;

export interface Kind {
  name: string;
  formula: string;
  words: string;
  field: string;
  size: number;
  check: string;
  signed: boolean;
  source: string;
}

type Table = Record<string, number>;

export interface State {
  starts: number;
  content: number;
  codeBlocks: number;
  codeFirst: number;
  codeOffsets: number;
  codeTexts: number;
}

export interface Report {
  version: number;
  title: string;
  target: string;
  error: string | null;
  exports: string[];
  placeholders: string[];
  inputs: string[];
  kinds: Record<string, Kind>;
  symbolKinds: Record<string, string>;
  got: string;
  stages: Record<string, Record<"sections" | "blocks" | "symbols" | "edges", Table>>;
  states: { before: State; after?: State };
  roots: { from: number };
  strings: number;
  columns: string[];
}

export function readReport(): Report {
  const element = document.getElementById("report");
  const report = JSON.parse(element?.textContent ?? "{}") as Report;
  if (report.version !== VERSION) throw new Error(`this page reads data of version ${VERSION}`);
  return report;
}

// Unpacks columns: base64 of zlib. Each is unpacked once.
export class Columns {
  private readonly unpacked = new Map<number, Promise<ArrayBuffer>>();

  constructor(private readonly packed: string[]) {}

  bytes(column: number): Promise<ArrayBuffer> {
    let found = this.unpacked.get(column);
    if (!found) {
      found = inflate(this.packed[column]);
      this.unpacked.set(column, found);
    }
    return found;
  }

  async small(column: number): Promise<Uint8Array> {
    return new Uint8Array(await this.bytes(column));
  }

  async numbers(column: number): Promise<Int32Array> {
    return new Int32Array(await this.bytes(column));
  }

  async floats(column: number): Promise<Float64Array> {
    return new Float64Array(await this.bytes(column));
  }

  async addresses(column: number): Promise<BigUint64Array> {
    return new BigUint64Array(await this.bytes(column));
  }

  async lines(column: number): Promise<string[]> {
    return new TextDecoder().decode(await this.bytes(column)).split("\n");
  }
}

function inflate(packed: string): Promise<ArrayBuffer> {
  const raw = atob(packed);
  const bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}
