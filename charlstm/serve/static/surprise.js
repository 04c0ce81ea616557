// Surprise of tokens: how it is counted and coloured, and what is told about one of them.

export const ALTERNATIVES = 5; // that are asked for with each token
const LIMITS = [0.5, 1, 2, 4, 7]; // bits, between levels of colour
const GLYPHS = { " ": ["␣", "space"], "\n": ["↵", "line feed"], "\t": ["⇥", "tab"], "\r": ["␍", "carriage return"] };

export const level = (bits) => LIMITS.filter((limit) => bits >= limit).length;

// The tokens of a choice, each with its place in the text, counted in Unicode characters.
export function tokens(logprobs) {
  return logprobs.tokens.map((name, k) => ({
    name,
    offset: logprobs.text_offset[k],
    logprob: logprobs.token_logprobs[k],
    // an object has its digits first, whatever their order was
    alternatives: Object.entries(logprobs.top_logprobs[k]).sort((a, b) => b[1] - a[1]),
  }));
}

// What of a text was drawn at a time: a token, or those that only together are a character.
export class Pieces {
  all = [];

  // `size` characters have come by now.
  add(tokens, size) {
    for (const token of tokens.filter(({ offset }) => offset < size)) {
      const last = this.all.at(-1);
      const bits = -token.logprob / Math.LN2;
      if (last?.start === token.offset) {
        last.tokens.push(token);
        last.bits += bits;
        continue;
      }
      if (last) last.end = token.offset;
      this.all.push({ start: token.offset, end: size, tokens: [token], bits });
    }
    if (this.all.length) this.all.at(-1).end = size;
  }

  cut(size) {
    this.all = this.all.filter(({ start }) => start < size);
    if (this.all.length) this.all.at(-1).end = size;
  }
}

export function legend(list) {
  const names = LIMITS.map((limit, k) => (k ? `${LIMITS[k - 1]} to ${limit}` : `under ${limit} bits`));
  for (const [k, name] of [...names, `${LIMITS.at(-1)} or more`].entries()) {
    const item = document.createElement("li");
    item.className = `level${k}`;
    item.append(name);
    list.append(item);
  }
}

// A token as it can be seen, and as it can be said.
function seen(name) {
  return name.replace(/[ \n\t\r]/g, (character) => GLYPHS[character][0]);
}

function said(name) {
  return GLYPHS[name]?.[1] ?? name;
}

const share = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 3 });

function percent(logprob) {
  return logprob < Math.log(1e-4) ? "under 0.01%" : share.format(Math.exp(logprob));
}

// Shows one piece of a text at a time: the one that its slider is at, or for a moment another one.
export class Inspector {
  #pieces = [];
  #pointed = -1;

  // `mark` is told the number of the piece that is chosen, and whether it is to be brought into view.
  constructor(element, mark) {
    this.element = element;
    this.slider = element.querySelector("#token");
    this.facts = element.querySelector("#facts");
    this.table = element.querySelector("table");
    this.mark = mark;
    this.slider.addEventListener("input", () => this.choose(this.slider.valueAsNumber, true));
  }

  // Tell about these pieces; hidden where there are none.
  open(pieces) {
    this.#pieces = pieces;
    this.#pointed = -1;
    this.element.hidden = !pieces.length;
    this.slider.max = Math.max(0, pieces.length - 1);
    if (pieces.length) this.choose(Math.min(this.slider.valueAsNumber, pieces.length - 1));
  }

  choose(index, follow = false) {
    this.slider.value = index;
    this.#show(index);
    const { tokens } = this.#pieces[index];
    this.slider.setAttribute("aria-valuetext", tokens.map(spoken).join("; "));
    this.mark(index, follow);
  }

  // Show a piece while it is pointed at; -1 goes back to the chosen one.
  point(index) {
    if (!this.#pieces.length || index === this.#pointed) return;
    this.#pointed = index;
    this.#show(index < 0 ? this.slider.valueAsNumber : index);
  }

  #show(index) {
    const { tokens, bits } = this.#pieces[index];
    const names = tokens.map(({ name }) => seen(name)).join(" ");
    const told = ` ${percent(-bits * Math.LN2)}, ${bits.toFixed(2)} bits of surprise`;
    this.facts.replaceChildren(made("b", names), told);
    for (const body of [...this.table.tBodies]) body.remove();
    this.table.append(...tokens.map((token) => alternatives(token, tokens.length > 1)));
  }
}

// A token's alternatives as rows of a table, and itself where it is not among them.
function alternatives(token, headed) {
  const body = document.createElement("tbody");
  if (headed) {
    const head = made("th", seen(token.name));
    head.colSpan = 2;
    head.scope = "rowgroup";
    body.insertRow().append(head);
  }
  // a token that ends a character bears the character's name, among the alternatives that of its byte
  const drawn = ([name, logprob]) => name === token.name || logprob === token.logprob;
  const known = token.alternatives.some(drawn);
  for (const one of known ? token.alternatives : [...token.alternatives, [token.name, token.logprob]]) {
    const [name, logprob] = one;
    const row = body.insertRow();
    const head = made("th", seen(name));
    head.scope = "row";
    const bar = made("span", "");
    bar.className = "bar";
    bar.style.setProperty("--share", Math.exp(logprob));
    row.append(head);
    row.insertCell().append(bar, percent(logprob), made("i", drawn(one) ? " drawn" : ""));
    row.classList.toggle("taken", drawn(one));
  }
  return body;
}

function spoken({ name, logprob, alternatives }) {
  const others = alternatives.filter(([other]) => other !== name).map(([other, value]) => `${said(other)} ${percent(value)}`);
  const bits = (-logprob / Math.LN2).toFixed(1);
  return `${said(name)}, ${percent(logprob)}, ${bits} bits of surprise. Others: ${others.join(", ")}`;
}

function made(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
