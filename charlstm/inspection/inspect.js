"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const [L, H] = data.shape;
const spans = [...$("text").children];
const N = spans.length, LEVELS = 8, BEST = 8;
const values = decoded(data.values); // a row of N for each cell that is kept, then for each property
const rowOf = new Map(data.kept.map((cell, row) => [cell, row]));
let row = null; // what colours the text: a row of values, or null for surprise
let here = null; // the token that the line above the text tells of

function decoded(base64) {
  const bytes = atob(base64), found = new Int8Array(bytes.length);
  for (let k = 0; k < bytes.length; k++) found[k] = bytes.charCodeAt(k);
  return found;
}

const level = (share) => {
  const n = Math.round(share * LEVELS);
  return n < 0 ? "n" + -n : "p" + n;
};

function colour() {
  for (let k = 0; k < N; k++) {
    spans[k].className =
      row === null ? "p" + Math.min(LEVELS, Math.floor(data.surprise[k])) : level(values[row * N + k] / 127);
  }
  if (here !== null) spans[here].classList.add("here");
  legend();
  for (const button of document.querySelectorAll("button[data-cell]"))
    button.setAttribute("aria-pressed", row !== null && rowOf.get(Number(button.dataset.cell)) === row);
}

function legend() {
  const swatches = [];
  if (row === null) {
    for (let n = 0; n <= LEVELS; n++) swatches.push(["p" + n, n + (n === LEVELS ? "+ bits" : "")]);
  } else {
    const scale = data.scales[row], from = row < data.kept.length ? -LEVELS : 0;
    for (let n = from; n <= LEVELS; n += 2) swatches.push([level(n / LEVELS), short((scale * n) / LEVELS)]);
  }
  $("legend").replaceChildren(
    ...swatches.map(([style, text]) => {
      const swatch = document.createElement("span");
      swatch.className = style;
      swatch.textContent = text;
      return swatch;
    }),
  );
  $("legend").setAttribute("aria-label", "colours: " + swatches.map((each) => each[1]).join(", "));
}

const signed = (r) => (isNaN(r) ? "–" : (r < 0 ? "" : "+") + r.toFixed(2));
const short = (value) => String(Number(value.toPrecision(2)));
const percent = (p) => (p >= 0.1 ? (100 * p).toFixed(0) : (100 * p).toPrecision(2)) + " %";

function bdi(text) {
  const shown = document.createElement("bdi");
  shown.textContent = text;
  return shown;
}

function tell(k) {
  if (here !== null) spans[here].classList.remove("here");
  here = k;
  spans[k].classList.add("here");
  const bits = data.surprise[k];
  const parts = [
    `${k + 1} of ${N}: `, bdi(data.names[data.tokens[k]]),
    ` had ${percent(2 ** -bits)}, a surprise of ${bits.toFixed(2)} bits; expected, with an entropy of ` +
      `${data.entropy[k].toFixed(2)} bits, were `,
  ];
  data.alternatives[k].forEach((token, place) =>
    parts.push(bdi(data.names[token]), ` ${percent(data.probabilities[k][place])} `),
  );
  if (row !== null) parts.push(`; ${rowName(row)} is ${short((values[row * N + k] / 127) * data.scales[row])}`);
  $("told").replaceChildren(...parts);
}

function cellName(cell) {
  const place = cell % (L * H);
  return `${cell < L * H ? "c" : "h"}${Math.floor(place / H)}.${place % H}`;
}

function rowName(shown) {
  const kept = data.kept.length;
  return shown < kept ? cellName(data.kept[shown]) : data.properties[shown - kept];
}

function choose() {
  const kind = $("kind").value, ofCell = kind === "c" || kind === "h";
  for (const label of document.querySelectorAll("#controls .cell")) label.classList.toggle("hidden", !ofCell);
  document.querySelector("#controls .property").classList.toggle("hidden", kind !== "property");
  row = null;
  if (kind === "property") row = data.kept.length + $("property").selectedIndex;
  if (ofCell) {
    const layer = within($("layer"), L), unit = within($("unit"), H);
    const found = rowOf.get((kind === "h") * L * H + layer * H + unit);
    if (found === undefined) {
      $("told").textContent = `${kind}${layer}.${unit} is not in this page: it goes with no property`;
      colour();
      return;
    }
    row = found;
  }
  colour();
  if (here !== null) tell(here);
}

function within(input, size) {
  const value = Math.min(size - 1, Math.max(0, Math.round(Number(input.value)) || 0));
  input.value = value;
  return value;
}

function show(cell) {
  const place = cell % (L * H);
  $("kind").value = cell < L * H ? "c" : "h";
  $("layer").value = Math.floor(place / H);
  $("unit").value = place % H;
  choose();
}

function above(k, down) { // the token of the next line that lies nearest
  const box = spans[k].getBoundingClientRect(), middle = (box.left + box.right) / 2;
  let best = k, bestTop = null, bestGap = 0;
  for (let n = down ? k + 1 : k - 1; n >= 0 && n < N; n += down ? 1 : -1) {
    const other = spans[n].getClientRects()[0];
    if (!other || (down ? other.top < box.top + box.height / 2 : other.bottom > box.bottom - box.height / 2)) continue;
    if (bestTop === null) bestTop = other.top;
    if (Math.abs(other.top - bestTop) > other.height / 2) break;
    const gap = Math.abs((other.left + other.right) / 2 - middle);
    if (best === k || gap < bestGap) [best, bestGap] = [n, gap];
  }
  return best;
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const k = here === null ? 0 : here;
  const steps = {
    ArrowRight: () => (here === null ? 0 : Math.min(N - 1, k + 1)),
    ArrowLeft: () => Math.max(0, k - 1),
    ArrowDown: () => above(k, true),
    ArrowUp: () => above(k, false),
    Home: () => 0,
    End: () => N - 1,
  };
  if (event.key in steps) {
    tell(steps[event.key]());
    spans[here].scrollIntoView({ block: "nearest" });
  } else if (event.key === "[" || event.key === "]") {
    if ($("kind").value !== "c" && $("kind").value !== "h") $("kind").value = "c";
    $("unit").value = (Number($("unit").value) + (event.key === "]" ? 1 : H - 1)) % H;
    choose();
  } else return;
  event.preventDefault();
}

// ---- the search for a regular expression

function correlation(shown, y, from, to) { // Pearson's, in whole numbers but for the last division
  let n = to - from, a = 0, aa = 0, b = 0, ab = 0;
  for (let k = from; k < to; k++) {
    const value = values[shown * N + k];
    a += value, aa += value * value, b += y[k], ab += value * y[k];
  }
  const spread = (n * aa - a * a) * (n * b - b * b);
  return spread > 0 ? (n * ab - a * b) / Math.sqrt(spread) : NaN;
}

function matched(pattern) { // 1 for each token whose last character lies in a match
  const y = new Uint8Array(N), text = data.texts.join(""), inside = new Uint8Array(text.length);
  for (const match of text.matchAll(new RegExp(pattern, "gmu"))) inside.fill(1, match.index, match.index + match[0].length);
  let end = 0;
  data.texts.forEach((piece, k) => {
    end += piece.length;
    y[k] = end ? inside[end - 1] : 0;
  });
  return y;
}

function search() {
  let y;
  try {
    y = matched($("pattern").value);
  } catch (error) {
    $("found").textContent = error.message;
    return;
  }
  const half = N >> 1;
  const strong = data.kept.map((cell, shown) => ({ cell, shown, r: correlation(shown, y, 0, half) }));
  const best = strong.filter((one) => !isNaN(one.r)).sort((one, other) => Math.abs(other.r) - Math.abs(one.r));
  $("found").replaceChildren(`${y.reduce((sum, one) => sum + one, 0)} of ${N} match. `, ...best.slice(0, BEST).map((one) => button(one, y)));
  if (!best.length) $("found").append("Nothing in the first half of the text matches, or all of it.");
  colour();
}

function button({ cell, shown, r }, y) {
  const made = document.createElement("button");
  made.dataset.cell = cell;
  made.textContent = `${cellName(cell)} ${signed(r)} (${signed(correlation(shown, y, N >> 1, N))})`;
  return made;
}

$("text").addEventListener("mouseover", (event) => {
  const k = spans.indexOf(event.target);
  if (k >= 0) tell(k);
});
$("text").addEventListener("keydown", pressed);
$("text").addEventListener("focus", () => here === null && tell(0));
document.addEventListener("click", (event) => {
  const chosen = event.target.closest("button[data-cell]");
  if (chosen) show(Number(chosen.dataset.cell));
});
for (const id of ["kind", "layer", "unit", "property"]) $(id).addEventListener("change", choose);
$("search").addEventListener("click", search);
$("pattern").addEventListener("keydown", (event) => event.key === "Enter" && search());
choose();
