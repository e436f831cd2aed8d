// Bundles the page into jitlink/inspect/page/: page.js, page.css, the licences of what is bundled, and the
// hash of the sources, by which a test tells whether somebody forgot to build.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const out = "../jitlink/inspect/page";
const bundled = ["cytoscape", "cytoscape-dagre", "dagre", "graphlib", "lodash", "d3-hierarchy"];

await build({
  entryPoints: ["src/main.ts"],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  outfile: `${out}/page.js`,
});
// "</script" inside of the script would end it.
const script = readFileSync(`${out}/page.js`, "utf8").replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
writeFileSync(`${out}/page.js`, script);
await build({ entryPoints: ["src/page.css"], minify: true, outfile: `${out}/page.css` });

const licences = bundled.map((name) => {
  const about = JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8"));
  const file = readdirSync(`node_modules/${name}`).find((each) => /^licen[cs]e/i.test(each));
  const text = file ? readFileSync(`node_modules/${name}/${file}`, "utf8").trim() : `Licence: ${about.license}`;
  return `${name} ${about.version}\n${"-".repeat(name.length + about.version.length + 1)}\n\n${text}\n`;
});
writeFileSync(`${out}/THIRD-PARTY-LICENSES`, `page.js holds these packages:\n\n${licences.join("\n\n")}`);

const hash = createHash("sha256");
const sources = [...readdirSync("src").map((name) => `src/${name}`), "package-lock.json", "build.mjs"].sort();
for (const name of sources) hash.update(readFileSync(name));
writeFileSync(`${out}/sources.sha256`, `${hash.digest("hex")}\n`);
