// The page: asks for text, shows it as it comes, and what belongs to it.

import { Failure, completion, models } from "./api.js";
import { curve, facts } from "./card.js";
import { Settings, fromLink, linked } from "./settings.js";
import { ALTERNATIVES, Inspector, legend, tokens } from "./surprise.js";
import { TextView } from "./text.js";

const ENDS = {
  length: "The length is reached",
  stop: "A stop string came",
  match: "The expression has matched",
  "dead end": "Nothing may follow",
  deadline: "The server cut it at its limit of time",
};
const element = (id) => document.getElementById(id);
const [form, colour] = [element("form"), element("colour")];
const settings = new Settings(form, element("model"));
const view = new TextView(element("text"));
const inspector = new Inspector(element("inspector"), (index, follow) => view.select(index, follow));
let cards = [];
let drawn = null; // the text in the page: its request with its seed, and the settings that it came from
let running = null; // ends what the server is asked for

function tell(message) {
  element("status").textContent = message;
}

function fail(error) {
  if (!(error instanceof Failure)) throw error;
  tell("");
  if (!settings.wrong(error.field, error.message)) element("failure").textContent = error.message;
}

// ---- drawing ------------------------------------------------------------------------------------

// Do something that asks the server, in place of what it is asked for already; whether nothing went wrong.
async function work(doing) {
  running?.abort();
  const own = (running = new AbortController());
  const stop = element("stop-drawing");
  element("failure").textContent = "";
  stop.disabled = false;
  try {
    await doing(own.signal);
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (running === own && stopped) tell(`Stopped. ${about()}`);
    else if (running === own) fail(error);
    return stopped;
  } finally {
    if (running === own) {
      running = null;
      if (document.activeElement === stop) element("generate").focus();
      stop.disabled = true;
    }
  }
  return true;
}

async function submitted() {
  const { request, values } = settings;
  if (!request) return;
  const whole = await work((signal) => generate(request, values, signal));
  if (whole && !running && colour.checked && !view.scored) await work(coloured); // it was asked for meanwhile
}

async function generate(request, values, signal) {
  tell("Writing …");
  if (!cards.length) await loaded();
  if (colour.checked) request.logprobs = ALTERNATIVES;
  let begun = null;
  try {
    for await (const choice of completion(request, signal)) {
      if (!begun) {
        begun = { request: { ...request, seed: choice.seed }, values: { ...values, seed: choice.seed } };
        begin(begun);
      }
      view.add(choice.text, choice.logprobs ? tokens(choice.logprobs) : []);
      begun.end = choice.end;
    }
    await Promise.race([view.end(), aborted(signal)]);
    tell(`${ENDS[begun.end]}. ${about()}`);
  } catch (error) {
    // what was stopped ends with what was seen of it, what broke off with all that has come
    if (begun && drawn === begun) view.close(error.name === "AbortError");
    throw error;
  } finally {
    if (begun && drawn === begun) {
      element("text").classList.remove("growing");
      inspector.open(view.pieces);
    }
  }
}

function begin(text) {
  drawn = text;
  inspector.open([]);
  view.begin(text.request.prompt, "logprobs" in text.request);
  recoloured();
  element("text").classList.add("growing");
  element("tools").hidden = false;
  const output = element("output");
  if (output.getBoundingClientRect().top > 0.6 * innerHeight) output.scrollIntoView();
}

function aborted(signal) {
  return new Promise((_, reject) => {
    signal.throwIfAborted();
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

// About the text in the page.
function about() {
  if (!drawn) return "";
  return `${view.size.toLocaleString("en")} ${view.size === 1 ? "character" : "characters"}, seed ${drawn.request.seed}.`;
}

// ---- colours ------------------------------------------------------------------------------------

function recoloured() {
  element("legend").hidden = !colour.checked;
  view.coloured = colour.checked;
}

// Ask for the surprise of a text that was drawn without it: the same text is drawn again.
async function coloured(signal) {
  if (!view.size) return;
  tell("Asking for the surprise …");
  view.score(await scored(signal));
  inspector.open(view.pieces);
  tell(`Coloured by surprise. ${about()}`);
}

async function scored(signal) {
  const whole = view.text;
  const found = [];
  let text = "";
  for await (const choice of completion({ ...drawn.request, logprobs: ALTERNATIVES }, signal)) {
    text += choice.text;
    found.push(...tokens(choice.logprobs));
    if (text.length >= whole.length) break;
  }
  if (text.startsWith(whole)) return found;
  throw new Failure("The server does not draw the same text again: its model has changed.");
}

function pieceAt(event) {
  return Number(event.target.closest("[data-piece]")?.dataset.piece ?? -1);
}

// ---- models -------------------------------------------------------------------------------------

async function loaded() {
  const { models: found, limits } = await models();
  cards = found;
  element("model").replaceChildren(...cards.map(({ id }) => new Option(id, id)));
  element("choice").hidden = cards.length === 1;
  element("only").textContent = cards.length === 1 ? cards[0].id : "";
  const { max_tokens: length } = form.elements;
  length.max = limits.max_tokens;
  if (length.valueAsNumber > limits.max_tokens) length.value = limits.max_tokens;
  element("max_tokens-about").textContent = `tokens, at most ${limits.max_tokens.toLocaleString("en")}`;
  describe();
}

function describe() {
  const card = cards.find(({ id }) => id === element("model").value) ?? cards[0];
  if (!card) return;
  element("card-name").textContent = card.id;
  element("card-facts").replaceChildren(...facts(card));
  element("card-curve").replaceChildren(...curve(card));
}

// ---- links and copies ---------------------------------------------------------------------------

async function copied(text, done) {
  try {
    await navigator.clipboard.writeText(text); // only there on https and localhost
    tell(done);
  } catch {
    const focused = document.activeElement;
    const field = document.createElement("textarea");
    field.className = "unseen";
    field.value = text;
    document.body.append(field);
    field.select();
    const worked = document.execCommand("copy");
    field.remove();
    focused.focus();
    tell(worked ? done : "This browser does not let the page copy. Text can be selected, and a link stands in the address bar.");
  }
}

function share() {
  const values = { ...drawn.values, ...(colour.checked && { surprise: "1" }) };
  history.replaceState(null, "", linked(values));
  copied(location.href, "The link to this text is copied, and stands in the address bar.");
}

function fill() {
  const values = fromLink();
  if (!values) return;
  settings.values = values;
  colour.checked = Boolean(values.surprise);
  if (drawn) {
    recoloured();
    inspector.open(view.pieces);
  }
  const known = !values.model || cards.some(({ id }) => id === values.model);
  describe();
  tell(known ? "Filled in from the link: Generate writes its text." : "");
  if (!known) element("failure").textContent = `The link’s model, ${values.model}, is not here.`;
}

// ---- what happens -------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submitted();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) form.requestSubmit();
});
element("stop-drawing").addEventListener("click", () => running?.abort());
element("regenerate").addEventListener("click", () => {
  form.elements.seed.value = "";
  form.requestSubmit();
});
element("copy").addEventListener("click", () => copied(element("text").textContent, "The text is copied."));
element("share").addEventListener("click", share);
colour.addEventListener("change", () => {
  recoloured();
  inspector.open(running ? [] : view.pieces);
  if (colour.checked && !view.scored && !running) work(coloured);
});
element("text").addEventListener("pointerover", (event) => event.pointerType === "mouse" && inspector.point(pieceAt(event)));
element("text").addEventListener("pointerleave", () => inspector.point(-1));
element("text").addEventListener("click", (event) => {
  if (pieceAt(event) < 0) return;
  inspector.choose(pieceAt(event));
  inspector.slider.focus({ preventScroll: true });
});
element("model").addEventListener("change", describe);
addEventListener("hashchange", fill);

legend(element("legend").querySelector("ul"));
try {
  await loaded();
  fill();
} catch (error) {
  fail(error);
}
