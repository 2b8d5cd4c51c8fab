// The AI SDK against a server: text, stream, tools, an agent and objects, by provider.
//
//     node ai_sdk.mjs FOLDER URL KEY > answers.json
//
// FOLDER has the packages; what each provider answered is printed as JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, url, apiKey] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${folder}/any.js`));
const load = (name) => import(pathToFileURL(require.resolve(name)));

const [{ generateText, streamText, Output, ToolLoopAgent, tool, stepCountIs }, { z }] =
  await Promise.all([load("ai"), load("zod")]);
const { createOpenAI } = await load("@ai-sdk/openai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { createAnthropic } = await load("@ai-sdk/anthropic");

const baseURL = `${url}/v1`;
const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({
  name: "local",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const models = {
  responses: openai.responses("demo"),
  chat: openai.chat("demo"),
  compatible: compatible("demo"),
  anthropic: createAnthropic({ baseURL, apiKey })("demo"),
};

const SUM = "What is 417 + 285?";
const WEATHER = "What is the weather in Oslo?";
const settings = { temperature: 0, maxRetries: 0, maxOutputTokens: 800 };

const answersOf = async (model) => {
  const cities = [];
  const tools = {
    get_weather: tool({
      description: "Gets the weather for a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => {
        cities.push(city);
        return { temperature: 21 };
      },
    }),
  };
  const text = await generateText({ model, prompt: SUM, ...settings });
  const stream = streamText({ model, prompt: SUM, ...settings });
  let streamed = "";
  for await (const part of stream.textStream) streamed += part;
  const stopWhen = stepCountIs(4);
  const looped = await generateText({ model, prompt: WEATHER, tools, stopWhen, ...settings });
  const agent = new ToolLoopAgent({ model, tools, stopWhen, ...settings });
  const running = await agent.stream({ prompt: WEATHER });
  let said = "";
  for await (const part of running.textStream) said += part;
  const output = Output.object({ schema: z.object({ city: z.enum(["Oslo", "Rome"]) }) });
  const object = await generateText({ model, prompt: WEATHER, output, ...settings });
  return {
    text: text.text,
    reasons: Boolean(text.reasoningText),
    streamed,
    tokens: (await stream.usage).inputTokens > 0,
    tools: looped.text,
    agent: said,
    cities,
    object: object.output,
  };
};

const answers = {};
for (const [name, model] of Object.entries(models)) {
  try {
    answers[name] = await answersOf(model);
  } catch (error) {
    answers[name] = { error: String(error?.stack ?? error) };
  }
}
console.log(JSON.stringify(answers));
