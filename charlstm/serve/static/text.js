// The text: it appears character by character, and is coloured by surprise. It is only ever put into the page as text.

import { Pieces, level } from "./surprise.js";

const LAG = 300; // milliseconds over which what has come is spread
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class TextView {
  #prompt;
  #drawn;
  #node; // where characters are appended while nothing is coloured
  #characters = []; // Unicode characters, as the server counts them
  #pieces = null; // what was drawn at a time; null where its surprise was not asked for
  #shown = 0; // characters in the page
  #spans = []; // of the pieces in the page, while it is coloured
  #line; // where the next one belongs
  #coloured = false;
  #whole = true; // whether nothing more will come
  #frame = 0;
  #before = 0; // when the last frame was
  #settle = () => {}; // tells that everything is in the page

  constructor(element) {
    [this.#prompt, this.#drawn] = element.children;
    document.addEventListener("visibilitychange", () => document.hidden && this.#reveal(Infinity)); // no frames then
  }

  get text() {
    return this.#characters.join("");
  }

  get size() {
    return this.#characters.length;
  }

  // Whether the surprise of its tokens is known.
  get scored() {
    return this.#pieces !== null;
  }

  // The pieces that are coloured.
  get pieces() {
    return this.#coloured && this.#pieces ? this.#pieces.all : [];
  }

  set coloured(wanted) {
    this.#coloured = wanted;
    this.#render(this.#shown);
  }

  // Begin a text; `scored` if its tokens come with it.
  begin(prompt, scored) {
    this.#characters = [];
    this.#pieces = scored ? new Pieces() : null;
    this.#whole = false;
    this.#prompt.textContent = prompt;
    this.#render(0);
  }

  add(text, tokens) {
    for (const character of text) this.#characters.push(character);
    this.#pieces?.add(tokens, this.size);
    this.#go();
  }

  // Nothing more will come; resolves once everything is in the page.
  end() {
    this.#whole = true;
    return new Promise((resolve) => {
      this.#settle = resolve;
      this.#go();
    });
  }

  // Nothing more will come: show what has, or leave it at what is in the page.
  close(cut) {
    if (cut) {
      this.#characters.length = this.#shown;
      this.#pieces?.cut(this.size);
    }
    this.#whole = true;
    this.#reveal(Infinity);
  }

  // Take in the tokens of a text that was drawn without them.
  score(tokens) {
    this.#pieces = new Pieces();
    this.#pieces.add(tokens, this.size);
    this.#render(this.#shown);
  }

  // Mark a piece as the one that is told about, and bring it into view if it is to be followed.
  select(index, follow) {
    this.#drawn.querySelector(".selected")?.classList.remove("selected");
    const span = this.#spans[index];
    span.classList.add("selected");
    if (follow) span.scrollIntoView({ block: "nearest" });
  }

  #render(shown) {
    this.#shown = 0;
    this.#spans = [];
    this.#line = this.#drawn;
    this.#node = document.createTextNode("");
    this.#drawn.replaceChildren(this.#node);
    this.#reveal(shown);
  }

  #go() {
    if (still.matches || document.hidden) this.#reveal(Infinity);
    else if (!this.#frame) {
      this.#before = performance.now();
      this.#frame = requestAnimationFrame((now) => this.#step(now));
    }
  }

  // A frame takes a share of what waits, so that the text keeps up however fast it comes.
  #step(now) {
    this.#frame = 0;
    const waiting = this.size - this.#shown;
    const share = 1 - Math.exp(-Math.max(0, now - this.#before) / LAG);
    this.#reveal(this.#shown + Math.max(1, Math.round(waiting * share)));
    if (this.#shown < this.size) {
      this.#before = now;
      this.#frame = requestAnimationFrame((then) => this.#step(then));
    }
  }

  #reveal(until) {
    const end = Math.min(until, this.size);
    if (this.#coloured && this.#pieces) this.#revealPieces(end);
    else if (end > this.#shown) {
      this.#node.appendData(this.#characters.slice(this.#shown, end).join(""));
      this.#shown = end;
    }
    if (this.#whole && this.#shown === this.size) this.#settle();
  }

  // Lines are blocks of their own, so that one that grows does not have all the others laid out again.
  #revealPieces(end) {
    const { all } = this.#pieces;
    const ready = this.#whole ? all.length : all.length - 1; // the last piece may still grow
    while (this.#spans.length < ready && all[this.#spans.length].start < end) {
      const { start, end: after, bits } = all[this.#spans.length];
      const text = this.#characters.slice(start, after).join("");
      const span = document.createElement("span");
      span.className = `piece level${level(bits)}`;
      span.classList.toggle("break", text === "\n"); // has no width to colour
      span.dataset.piece = this.#spans.length;
      span.append(text);
      this.#line.append(span);
      this.#spans.push(span);
      this.#shown = after;
      if (text.endsWith("\n")) {
        this.#line = document.createElement("span");
        this.#line.className = "line";
        this.#drawn.append(this.#line);
      }
    }
  }
}
