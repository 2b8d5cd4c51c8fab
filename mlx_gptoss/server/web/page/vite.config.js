// Builds the page into ../assets: fixed names, nothing inline, licences beside it.
import { readFileSync, readdirSync } from "node:fs";
import { defineConfig } from "vite";

const BUNDLED = [
  "preact", "markdown-it", "linkify-it", "mdurl", "uc.micro", "punycode.js", "entities",
  "highlight.js", "katex",
];

function licences() {
  return {
    name: "licences",
    generateBundle() {
      const parts = BUNDLED.map((name) => {
        const folder = `node_modules/${name}`;
        const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
        const { version } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
        return `${name} ${version}\n\n${readFileSync(`${folder}/${file}`, "utf8").trim()}\n`;
      });
      this.emitFile({
        type: "asset", fileName: "licenses.txt", source: parts.join(`\n${"-".repeat(72)}\n\n`),
      });
    },
  };
}

export default defineConfig({
  base: "/web/assets/",
  plugins: [licences()],
  esbuild: { jsx: "automatic", jsxImportSource: "preact", legalComments: "none" },
  build: {
    outDir: "../assets",
    emptyOutDir: true,
    assetsDir: "",
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    target: "es2022",
    rollupOptions: {
      output: {
        entryFileNames: "page.js",
        chunkFileNames: "[name].js",
        assetFileNames: (asset) =>
          asset.names?.[0]?.endsWith(".css") ? "page.css" : "[name][extname]",
      },
    },
  },
});
