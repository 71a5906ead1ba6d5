// The models that are served, and their classes.

import { api } from "../server/api.js";
import { $, sleep } from "../ui/dom.js";
import { wordsOf } from "../ui/words.js";

const RETRY_MS = 1000;

// The models, as soon as there is one. Throws an Error if a key is needed and the user gives none.
export async function models() {
  for (;;) {
    try {
      const found = (await api("v1/models")).models;
      if (found.length) return found;
      $("model").textContent = "The model is loading…";
    } catch (error) {
      if (error.status === 401) throw error;
      $("model").textContent = wordsOf(error);
    }
    await sleep(RETRY_MS);
  }
}

export function offer(found) {
  $("models").replaceChildren(...found.map(({ id }) => new Option(id, id)));
  $("models").closest(".field").hidden = found.length === 1;
}

const classes = new Map(); // model → promise of its classes

export function classesOf(model) {
  if (!classes.has(model.id)) {
    const asked = api(`${model.urls.classes}?limit=10000`).then((body) => body.classes);
    asked.catch(() => classes.delete(model.id));
    classes.set(model.id, asked);
  }
  return classes.get(model.id);
}

export function describe(model) {
  const steps = model.steps === null ? "" : ` in ${model.steps} steps`;
  $("model").textContent = `${model.id}: ${model.width}×${model.height} pixels from ${model.grid[0]}×${model.grid[1]} tokens${steps}`;
}
