// What there is to draw with: the models, each with its classes and its palette.

import { api } from "./api.js";

const $ = (id) => document.getElementById(id);
const FEW_CLASSES = 64;
const AGAIN_MS = 1000;
const PALETTE_AGAIN_MS = 5000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The models, as soon as there are any. Throws where a key is wanted and none is given.
export async function models() {
  for (;;) {
    try {
      const found = (await api("v1/models")).models;
      if (found.length) return found;
      $("model").textContent = "the model is loading…";
    } catch (error) {
      if (error.status === 401) throw error;
      $("model").textContent = `the server does not answer (${error.message})`;
    }
    await sleep(AGAIN_MS);
  }
}

export function offerModels(found) {
  $("models").replaceChildren(...found.map(({ id }) => new Option(id, id)));
  $("models").closest(".field").hidden = found.length === 1;
}

export async function classesOf(model) {
  return (await api(model.urls.classes)).classes;
}

// Uint8Array [codes][4][4][3]; null while the worker still makes it.
async function paletteOf(model) {
  try {
    const { rgb } = await api(model.urls.palette);
    return Uint8Array.from(atob(rgb), (c) => c.charCodeAt(0));
  } catch {
    return null;
  }
}

// Holds the palette of a model, from when it is there.
export async function holdPalette(model, wanted) {
  model.palette = await paletteOf(model);
  const wait = async () => {
    while (model.palette === null && wanted()) {
      await sleep(PALETTE_AGAIN_MS);
      model.palette = await paletteOf(model);
    }
  };
  wait();
}

export function describe(model) {
  const steps = model.steps === null ? "" : ` in ${model.steps} steps`;
  $("model").textContent = `${model.id}: ${model.width}×${model.height} pixels from ${model.grid[0]}×${model.grid[1]} tokens${steps}`;
}

export function offerClasses(classes) {
  const before = $("class").value;
  if (classes.length > FEW_CLASSES) {
    const input = Object.assign(document.createElement("input"), { id: "class", name: "class", autocomplete: "off" });
    input.setAttribute("list", "classes");
    input.placeholder = `one of ${classes.length}; type to search`;
    const list = Object.assign(document.createElement("datalist"), { id: "classes" });
    list.append(...classes.map(({ name }) => new Option(name, name)));
    $("class-slot").replaceChildren(input, list);
  } else {
    const select = Object.assign(document.createElement("select"), { id: "class", name: "class" });
    select.append(...classes.map(({ name }) => new Option(name, name)), new Option("— no class —", ""));
    const same = classes.findIndex(({ name }) => name === before);
    select.selectedIndex = same >= 0 ? same : Math.floor(Math.random() * classes.length);
    $("class-slot").replaceChildren(select);
  }
}
