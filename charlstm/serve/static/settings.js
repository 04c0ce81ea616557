// The form: what it asks for, links that fill it in, and what is wrong with a field of it.

const ESCAPES = { n: "\n", t: "\t", "\\": "\\" };

export class Settings {
  // Fields bear the names that the API gives them; `others` lie outside of the form.
  constructor(form, ...others) {
    this.fields = [...form.elements, ...others].filter((field) => field.name);
    this.further = form.querySelector("details");
    this.count = form.querySelector("#set");
    for (const field of this.fields) field.addEventListener("input", () => (this.#right(field), this.#counted()));
  }

  // What is filled in, by field.
  get values() {
    return Object.fromEntries(this.fields.map((field) => [field.name, written(field)]).filter(([, text]) => text));
  }

  // Fill everything in anew: what is not given becomes empty.
  set values(given) {
    for (const field of this.fields) {
      const text = given[field.name] ?? "";
      if (field.type === "checkbox") field.checked = Boolean(text);
      else if (field.name !== "model") field.value = text;
      else if ([...field.options].some(({ value }) => value === text)) field.value = text;
      this.#right(field);
    }
    this.#counted();
  }

  // The request that the fields stand for; null where one of them cannot be, which is then told.
  get request() {
    this.fields.forEach((field) => this.#right(field));
    const wrong = this.fields.find((field) => !field.checkValidity());
    if (wrong) {
      this.wrong(wrong.name, wrong.validationMessage);
      return null;
    }
    const filled = this.fields.filter(written).map((field) => [field.name, asked(field)]);
    return { prompt: "", ...Object.fromEntries(filled) };
  }

  // Say at a field what is wrong with it, and go there; false where there is no such field.
  wrong(name, message) {
    const field = this.fields.find((one) => one.name === name);
    if (!field || field.closest("[hidden]")) return false;
    if (this.further.contains(field)) this.further.open = true;
    const told = document.createElement("p");
    told.className = "wrong";
    told.id = `${field.id}-wrong`;
    told.textContent = message;
    field.parentElement.append(told);
    field.setAttribute("aria-invalid", "true");
    described(field, (ids) => [told.id, ...ids]);
    field.focus();
    return true;
  }

  #right(field) {
    const told = document.getElementById(`${field.id}-wrong`);
    if (!told) return;
    told.remove();
    field.removeAttribute("aria-invalid");
    described(field, (ids) => ids.filter((id) => id !== told.id));
  }

  // Says beside what is folded away how much of it is set.
  #counted() {
    const set = this.fields.filter((field) => this.further.contains(field) && written(field)).length;
    this.count.textContent = set ? `(${set} set)` : "";
  }
}

function described(field, change) {
  const ids = change((field.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean));
  if (ids.length) field.setAttribute("aria-describedby", ids.join(" "));
  else field.removeAttribute("aria-describedby");
}

function written(field) {
  return field.type === "checkbox" ? (field.checked ? "1" : "") : field.value;
}

// A field's value as the API wants it.
function asked(field) {
  if (field.type === "checkbox") return true;
  if (field.type === "number") return field.valueAsNumber;
  if (field.name === "stop") return field.value.split("\n").filter(Boolean).map(unescaped);
  if (field.name === "temperature" && Number.isFinite(Number(field.value))) return Number(field.value);
  return field.value;
}

function unescaped(line) {
  return line.replace(/\\([nt\\])/g, (_, letter) => ESCAPES[letter]);
}

// Settings as a part of an address that browsers do not send.
export function linked(values) {
  return `#${new URLSearchParams(values)}`;
}

// Those of the page's own address, or null.
export function fromLink() {
  return location.hash.length > 1 ? Object.fromEntries(new URLSearchParams(location.hash.slice(1))) : null;
}
