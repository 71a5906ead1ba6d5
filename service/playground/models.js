// The models that are served, with their classes and palettes.

import { api } from "./api.js";

const $ = (id) => document.getElementById(id);
const FEW_CLASSES = 64;
const RETRY_MS = 1000;
const PALETTE_RETRY_MS = 5000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The models, as soon as there is one. Throws an Error if a key is needed and the user gives none.
export async function models() {
  for (;;) {
    try {
      const found = (await api("v1/models")).models;
      if (found.length) return found;
      $("model").textContent = "The model is loading…";
    } catch (error) {
      if (error.status === 401) throw error;
      $("model").textContent = `The server does not respond (${error.message}).`;
    }
    await sleep(RETRY_MS);
  }
}

export function offerModels(found) {
  $("models").replaceChildren(...found.map(({ id }) => new Option(id, id)));
  $("models").closest(".field").hidden = found.length === 1;
}

export async function classesOf(model) {
  return (await api(model.urls.classes)).classes;
}

// Uint8Array [codes][4][4][3]; null while the worker computes it.
async function paletteOf(model) {
  try {
    const { rgb } = await api(model.urls.palette);
    return Uint8Array.from(atob(rgb), (c) => c.charCodeAt(0));
  } catch {
    return null;
  }
}

// Loads a model's palette into model.palette; retries while it is not ready and `wanted()` holds.
export async function holdPalette(model, wanted) {
  model.palette = await paletteOf(model);
  const wait = async () => {
    while (model.palette === null && wanted()) {
      await sleep(PALETTE_RETRY_MS);
      model.palette = await paletteOf(model);
    }
  };
  wait();
}

export function describe(model) {
  const steps = model.steps === null ? "" : ` in ${model.steps} steps`;
  $("model").textContent = `${model.id}: ${model.width}×${model.height} pixels from ${model.grid[0]}×${model.grid[1]} tokens${steps}`;
}

// What the form sends for each class: its name, or its label if another class has the same name.
function values(classes) {
  const count = new Map();
  for (const { name } of classes) count.set(name.toLowerCase(), (count.get(name.toLowerCase()) ?? 0) + 1);
  return classes.map(({ name, label }) => (count.get(name.toLowerCase()) > 1 ? String(label) : name));
}

export function offerClasses(classes) {
  const before = $("class").value;
  const sent = values(classes);
  if (classes.length > FEW_CLASSES) {
    const input = Object.assign(document.createElement("input"), { id: "class", name: "class", autocomplete: "off" });
    input.setAttribute("list", "classes");
    input.placeholder = `${classes.length} classes; type to search`;
    const list = Object.assign(document.createElement("datalist"), { id: "classes" });
    // The browser searches both parts of an option, and shows the second one in small print.
    const hint = ({ name, synonyms, wordnet_id }, index) =>
      [...(sent[index] === name ? [] : [name]), ...synonyms, wordnet_id].filter(Boolean).join(", ") || name;
    list.append(...classes.map((each, index) => new Option(hint(each, index), sent[index])));
    $("class-slot").replaceChildren(input, list);
  } else {
    const select = Object.assign(document.createElement("select"), { id: "class", name: "class" });
    const text = ({ name }, index) => (sent[index] === name ? name : `${name} (${sent[index]})`);
    select.append(...classes.map((each, index) => new Option(text(each, index), sent[index])));
    select.append(new Option("— no class —", ""));
    const same = sent.indexOf(before);
    select.selectedIndex = same >= 0 ? same : Math.floor(Math.random() * classes.length);
    $("class-slot").replaceChildren(select);
  }
}
