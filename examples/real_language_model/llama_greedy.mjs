// What llama.cpp says to prompts, greedily, by npm's `node-llama-cpp`:
//
//   npm install node-llama-cpp
//   node llama_greedy.mjs model.gguf prompts.json ['{"flashAttention": true}'] > said.jsonl
//
// The last argument are options of its `createContext`.
import fs from "fs";
import { getLlama } from "node-llama-cpp";

const TOKENS = 24;
const [modelPath, prompts, options] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath });
for (const text of JSON.parse(fs.readFileSync(prompts))) {
  const context = await model.createContext({
    contextSize: 512, threads: 1, flashAttention: false, ...JSON.parse(options ?? "{}"),
  });
  const ids = model.tokenize(text);
  const out = [];
  for await (const token of context.getSequence().evaluate(ids, { temperature: 0, topK: 1 })) {
    if (out.push(token) === TOKENS) break;
  }
  console.log(JSON.stringify({ ids, out }));
  await context.dispose();
}
process.exit(0);
