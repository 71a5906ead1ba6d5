// The handles on the picture's sides: outpainting adds as many pixels as they are drawn out.

import { $ } from "../ui/dom.js";

const SIDES = { left: [-1, 0], right: [1, 0], up: [0, -1], down: [0, 1] };
const MOST = 4096;

let unit = 8; // pixels of the picture on a side of a token

export const padding = () => Object.fromEntries(Object.keys(SIDES).map((side) => [side, Math.max(0, Number($(side).value) || 0)]));

// pixels: on a side of a token.
export function use(pixels) {
  unit = pixels;
  for (const side of Object.keys(SIDES)) $(side).step = 1;
}

export function describe() {
  for (const [side, pixels] of Object.entries(padding())) {
    const handle = $(`${side}-handle`);
    handle.setAttribute("aria-valuenow", pixels);
    handle.setAttribute("aria-valuetext", `${pixels} pixels`);
  }
}

function set(side, pixels) {
  const snapped = Math.min(MOST, Math.max(0, Math.round(pixels / unit) * unit));
  if (Number($(side).value) === snapped) return;
  $(side).value = Math.round(snapped);
  $(side).dispatchEvent(new Event("input", { bubbles: true }));
}

for (const [side, [x, y]] of Object.entries(SIDES)) {
  const handle = $(`${side}-handle`);
  let from = null; // where the drag began, and how many pixels a pixel of the screen is
  handle.addEventListener("pointerdown", (event) => {
    const picture = $("picture").getBoundingClientRect();
    from = { at: [event.clientX, event.clientY], pixels: padding()[side], scale: $("picture").naturalWidth / picture.width };
    handle.setPointerCapture(event.pointerId);
    event.preventDefault();
    handle.focus();
  });
  handle.addEventListener("pointermove", ({ clientX, clientY }) => {
    if (from) set(side, from.pixels + ((clientX - from.at[0]) * x + (clientY - from.at[1]) * y) * from.scale);
  });
  for (const name of ["pointerup", "pointercancel"]) handle.addEventListener(name, () => (from = null));
  handle.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: x || 0, ArrowLeft: -x || 0, ArrowDown: y || 0, ArrowUp: -y || 0, PageUp: 4, PageDown: -4 }[event.key];
    if (steps) set(side, padding()[side] + steps * unit);
    else if (event.key === "Home") set(side, 0);
    else return;
    event.preventDefault();
  });
}
