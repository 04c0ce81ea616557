// What the page asks of the server, and what goes wrong with it.

// Why there is no text, or no more of it; `field` is what of the request is wrong, where that is known.
export class Failure extends Error {
  constructor(message, field = null) {
    super(message);
    this.field = field;
  }
}

const SILENT = "The server does not answer. Try again once it runs.";
const BROKEN = "The connection to the server broke off. What had come by then stays.";
const KEY = "The server asks for its key: reload the page, and give any name, and the key as the password.";

async function answered(path, options = {}) {
  const response = await fetch(path, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Failure(SILENT);
  });
  if (response.ok) return response;
  if (response.status === 401) throw new Failure(KEY);
  const { error } = await response.json().catch(() => ({})); // a proxy's error is not JSON
  if (!error) throw new Failure(`The server answers with status ${response.status}.`);
  throw new Failure(error.message, error.code === "model_not_found" ? "model" : error.param);
}

export async function models() {
  return (await answered("page/models")).json();
}

// The choices of a streamed completion, one after the other. Throws AbortError where the signal ends it.
export async function* completion(request, signal) {
  const response = await answered("v1/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true }),
    signal,
  });
  for await (const event of events(response.body)) {
    if (event.error) throw new Failure(event.error.message);
    yield event.choices[0];
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        return { done: true };
      });
      if (done) throw new Failure(BROKEN); // an answer that is whole ends with [DONE]
      held += value;
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        if (part === "data: [DONE]") return;
        if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // who reads no further wants no more drawn
  }
}
