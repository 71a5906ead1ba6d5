// The palettes of the models: with them the page paints tokens.

import { api } from "../server/api.js";
import { sleep } from "../ui/dom.js";

const RETRY_MS = 5000;
const palettes = new Map(); // model → promise of Uint8Array [codes][4][4][3]

export function paletteOf(model) {
  if (!palettes.has(model)) palettes.set(model, load(model));
  return palettes.get(model);
}

// Tries again while the worker computes it.
async function load(model) {
  for (;;) {
    try {
      const { rgb } = await api(`v1/models/${encodeURIComponent(model)}/palette`);
      return Uint8Array.from(atob(rgb), (c) => c.charCodeAt(0));
    } catch {
      await sleep(RETRY_MS);
    }
  }
}
