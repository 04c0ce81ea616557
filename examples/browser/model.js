// Text from an exported charlstm model: characters to tokens, draws, one step after the other.
// Knows nothing of the page; main.js does.

/** Characters to tokens and back, by the content of tokenizer.json. */
export class Characters {
  constructor(content) {
    if (content.type !== "characters" && content.type !== "ascii") {
      throw new Error(`This page reads models of characters, and this one's tokens are of type "${content.type}".`);
    }
    const ascii = () => Array.from({ length: 128 }, (_, code) => String.fromCharCode(code));
    this.vocabulary = content.type === "ascii" ? ascii() : content.vocabulary;
    this.normalization = content.normalize;
    this.ids = new Map(this.vocabulary.map((character, id) => [character, id]));
  }

  get start() {
    return this.ids.get("\n") ?? 0; // as charlstm: an empty prompt starts after a line's end
  }

  /** The tokens of a text, and those of its characters that the model does not know. */
  encode(text) {
    const characters = Array.from(this.normalization ? text.normalize(this.normalization) : text);
    const known = characters.filter((character) => this.ids.has(character));
    const unknown = new Set(characters.filter((character) => !this.ids.has(character)));
    return { tokens: known.map((character) => this.ids.get(character)), unknown: [...unknown] };
  }

  decode(token) {
    return this.vocabulary[token];
  }
}

/** A token drawn from the softmax of logits / temperature; the most probable one where that is 0. */
export function draw(logits, temperature, random = Math.random) {
  const best = logits.reduce((found, value, k) => (value > logits[found] ? k : found), 0);
  if (temperature === 0) return best;
  const weights = Array.from(logits, (value) => Math.exp((value - logits[best]) / temperature));
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let k = 0; k < weights.length; k++) {
    left -= weights[k];
    if (left < 0) return k;
  }
  return best; // the sum was rounded down
}

/**
 * Yields, one at a time, `length` characters that follow tokens.
 *
 * runtime: onnxruntime-web; session: its session of the exported model.
 */
export async function* generate(runtime, session, characters, tokens, { length, temperature, random }) {
  const { shape } = session.inputMetadata.find((input) => input.name === "h"); // (layers, "batch", units)
  const zeros = () => new runtime.Tensor("float32", new Float32Array(shape[0] * shape[2]), [shape[0], 1, shape[2]]);
  let [h, c] = [zeros(), zeros()];
  let read = tokens.length ? tokens : [characters.start];
  for (let n = 0; n < length; n++) {
    const ids = new runtime.Tensor("int64", BigInt64Array.from(read, BigInt), [read.length, 1]);
    const { logits, next_h, next_c } = await session.run({ tokens: ids, h, c });
    [h, c] = [next_h, next_c];
    read = [draw(logits.data.subarray(-characters.vocabulary.length), temperature, random)];
    yield characters.decode(read[0]);
  }
}
