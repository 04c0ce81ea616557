// Asks for text and shows it as it comes. All text goes into the page as text, never as markup.
const element = (id) => document.getElementById(id);
let running = null; // what stops the text that is being drawn

function tell(message, wrong = false) {
  element("status").textContent = message;
  element("status").classList.toggle("wrong", wrong);
}

// The events of a streamed answer, each a parsed object.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
    }
  }
}

async function generate() {
  running = new AbortController();
  element("stop").disabled = false;
  element("generate").disabled = true;
  const shown = element("text");
  shown.textContent = element("prompt").value;
  tell("");
  try {
    const response = await fetch("v1/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: element("model").value,
        prompt: element("prompt").value,
        max_tokens: Number(element("length").value),
        temperature: Number(element("temperature").value),
        seed: element("seed").value === "" ? null : Number(element("seed").value),
        stream: true,
      }),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      shown.append(choice.text);
      if (choice.end) tell(`Seed ${choice.seed}. The end: ${choice.end}.`);
    }
  } catch (error) {
    if (error.name === "AbortError") tell("Stopped.");
    else tell(error instanceof TypeError ? "The server does not answer." : error.message, true);
  } finally {
    running = null;
    element("stop").disabled = true;
    element("generate").disabled = false;
  }
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) generate();
});
element("stop").addEventListener("click", () => running?.abort());

try {
  const { models } = await (await fetch("page/models")).json();
  element("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
} catch {
  tell("The server does not answer.", true);
}
