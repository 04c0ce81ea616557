// The card of a model: what it is, what it was trained on, how well it does, and its curve.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 640;
const HEIGHT = 256;
const AREA = { left: 56, right: 626, top: 30, bottom: 196 };
const number = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact" });
const CURVES = [["loss", "train", "training"], ["val_loss", "val", "validation"]];

export function facts(card) {
  const { losses, trained_on: text, unit } = card;
  const each = `nats per ${unit}`;
  const rows = [
    ["Trained on", text && `${text.name}: ${text.parts}`],
    ["Network", `${card.num_layers} ${card.num_layers === 1 ? "layer" : "layers"} of ${number.format(card.hidden_size)} units`],
    ["Parameters", number.format(card.parameters)],
    ["Vocabulary", number.format(card.vocab_size) + (card.tokenizer === `${unit}s` ? ` ${unit}s` : ` ${unit}s (${card.tokenizer})`)],
    ["Training", card.steps && trained(card)],
    ["Loss in training, last", losses.train && `${losses.train.toFixed(4)} ${each}`],
    ["Loss in validation, lowest", losses.best_val && `${losses.best_val.toFixed(4)} ${each}`],
    ["Perplexity", losses.perplexity && losses.perplexity.toPrecision(4)],
    [`Bits per ${unit}`, losses.bits_per_token && losses.bits_per_token.toFixed(4)],
  ];
  return rows.filter(([, value]) => value).map(([name, value]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = value;
    return row;
  });
}

function trained({ steps, tokens, seconds, unit }) {
  const minutes = Math.floor(seconds / 60);
  const time = minutes ? `${minutes} min ${Math.round(seconds % 60)} s` : `${seconds.toFixed(1)} s`;
  return `${number.format(steps)} steps, ${number.format(tokens)} ${unit}s read, ${time}`;
}

// The curves of training and validation, with a line that says what they are; nothing where there are none.
export function curve({ curves, unit }) {
  const points = [...curves.loss, ...curves.val_loss];
  if (!points.length) return [];
  const x = scale([0, ...points.map(([read]) => read)], AREA.left, AREA.right);
  const y = scale(points.map(([, loss]) => loss), AREA.bottom, AREA.top);
  const drawn = CURVES.filter(([key]) => curves[key].length);
  const told = drawn.map(([key, , name]) => `${name} from ${curves[key][0][1].toFixed(2)} to ${curves[key].at(-1)[1].toFixed(2)}`);
  const svg = part("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Loss, ${told.join(", ")}` });
  for (const value of y.ticks) {
    svg.append(part("path", { d: `M${AREA.left} ${y(value)}H${AREA.right}` }));
    svg.append(part("text", { class: "y", x: AREA.left - 8, y: y(value) }, String(value)));
  }
  for (const value of x.ticks) {
    svg.append(part("path", { d: `M${x(value)} ${AREA.bottom}v5` }));
    svg.append(part("text", { class: "x", x: x(value), y: AREA.bottom + 8 }, short.format(value)));
  }
  svg.append(part("text", { x: 4, y: 14 }, `nats per ${unit}`));
  svg.append(part("text", { class: "end", x: AREA.right, y: HEIGHT - 6 }, `${unit}s read`));
  for (const [key, style] of drawn) {
    const places = curves[key].map(([read, loss]) => [x(read), y(loss)]);
    svg.append(part("polyline", { class: style, points: places.map((place) => place.join()).join(" ") }));
    if (places.length <= 30) for (const [cx, cy] of places) svg.append(part("circle", { class: style, cx, cy, r: 3 }));
  }
  const caption = document.createElement("figcaption");
  for (const [, style, name] of drawn) {
    const key = document.createElement("span");
    key.className = `key ${style}`;
    key.textContent = name;
    caption.append(key, " ");
  }
  return [svg, caption];
}

function part(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

// Values to places along an axis, with round values within as its `ticks`.
function scale(values, from, to) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const [low, high] = least < most ? [least, most] : [least - 0.5, most + 0.5];
  const place = (value) => Number((from + ((value - low) / (high - low)) * (to - from)).toFixed(1));
  const rough = (high - low) / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((value) => value >= rough * 0.999);
  place.ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) place.ticks.push(Number((k * step).toPrecision(6)));
  return place;
}
