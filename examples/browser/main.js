// The page: loads model.onnx and tokenizer.json from its own folder, and writes text as it is drawn.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { Characters, generate } from "./model.js";

const PAUSE = 30; // milliseconds of work after which the page is shown and listened to

const form = document.querySelector("form");
const [text, status, start, stop] = ["text", "status", "start", "stop"].map((id) => document.getElementById(id));
let stopped = false;

ort.env.wasm.numThreads = 1; // more would need a server that isolates the page

async function fetched(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is not there (${response.status}): see docs/onnx.md.`);
  return response;
}

async function load() {
  const characters = new Characters(await (await fetched("tokenizer.json")).json());
  const session = await ort.InferenceSession.create(await (await fetched("model.onnx")).arrayBuffer());
  const outputs = session.outputMetadata.find((output) => output.name === "logits").shape.at(-1);
  if (outputs !== characters.vocabulary.length) throw new Error("tokenizer.json is not that of model.onnx.");
  return { characters, session };
}

async function write({ characters, session }) {
  const { tokens, unknown } = characters.encode(form.prompt.value);
  const length = form.length_.valueAsNumber;
  const options = { length, temperature: form.temperature.valueAsNumber };
  const written = document.createTextNode(form.prompt.value);
  text.replaceChildren(written);
  const skipped = unknown.length ? ` Skipped, as the model does not know them: ${unknown.join(" ")}` : "";
  status.textContent = `Writing.${skipped}`;
  const began = performance.now();
  let [count, shown] = [0, began];
  for await (const character of generate(ort, session, characters, tokens, options)) {
    if (stopped) break;
    written.appendData(character);
    count += 1;
    if (performance.now() - shown > PAUSE) {
      await new Promise((resolve) => setTimeout(resolve));
      shown = performance.now();
    }
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  status.textContent = `${stopped ? "Stopped" : "Done"}: ${count} characters in ${seconds} s.${skipped}`;
}

function working(busy) {
  start.disabled = busy;
  stop.disabled = !busy;
  text.setAttribute("aria-busy", String(busy));
}

function failed(error) {
  status.textContent = error.message;
  status.classList.add("error");
}

try {
  const model = await load();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const focused = document.activeElement === start; // which is about to be disabled
    stopped = false;
    status.classList.remove("error");
    working(true);
    if (focused) stop.focus();
    await write(model).catch(failed);
    const back = document.activeElement === stop || document.activeElement === document.body;
    working(false);
    if (focused && back) start.focus();
  });
  stop.addEventListener("click", () => (stopped = true));
  working(false);
  status.textContent = "Ready.";
} catch (error) {
  failed(error);
}
