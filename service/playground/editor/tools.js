// The tools of the mask: which one the pointer is, and what the buttons and keys do.

import { $, make } from "../ui/dom.js";
import { complain } from "../ui/toasts.js";
import { outline } from "../jobs/tokens.js";
import { Mask } from "./mask.js";
import { Zoom } from "./zoom.js";

const LARGE = 2 ** 20; // pixels; in a larger mask the tokens are found when the stroke ends

export const zoom = new Zoom($("board"));
export const mask = new Mask($("mask"), $("ring"), zoom, changed);

let grid = null;
let asked = 0;

// The grid on which the picture will be drawn: the outline shows which of its tokens the mask selects.
export function use(rows_and_columns) {
  grid = rows_and_columns;
  changed();
}

export function choose(tool) {
  mask.tool = tool;
  zoom.drag = tool === "hand";
  for (const each of ["brush", "eraser", "rectangle", "hand"]) $(each).setAttribute("aria-pressed", String(each === tool));
  // With the hand a finger scrolls the page; with a tool it paints, and two fingers zoom.
  $("board").dataset.tool = tool;
  $("mask").setAttribute("aria-label", tool === "hand" ? "Mask: choose a tool to paint" : "Mask: paint the part that should be redrawn");
  zoom.pan(0, 0);
}

function changed() {
  $("undo").disabled = mask.strokes.length === 0;
  $("redo").disabled = mask.undone.length === 0;
  $("clear").disabled = mask.empty;
  cancelAnimationFrame(asked);
  const { width, height } = $("mask");
  if (!mask.stroke || width * height <= LARGE) asked = requestAnimationFrame(snap);
}

// Outlines the tokens that the mask touches: these are redrawn.
function snap() {
  if (grid === null || $("mask").hidden) return;
  const cells = mask.empty ? [] : mask.cells(grid);
  const count = cells.flat().filter(Boolean).length;
  $("over").hidden = count === 0;
  if (count) outline($("over"), cells, getComputedStyle($("board")).getPropertyValue("--cells"));
  $("selected").textContent = count ? `${count} of ${grid[0] * grid[1]} tokens will be redrawn.` : "";
}

const grow = (share) => {
  mask.grow(share);
  $("size").value = Math.round(mask.share * 100);
};

async function load([file]) {
  if (!file) return;
  try {
    mask.load(await createImageBitmap(file));
  } catch {
    complain(new Error(`${file.name} can't be read as a picture. Choose a PNG, JPEG or WebP whose white part is to be redrawn.`));
  }
}

async function save() {
  const url = URL.createObjectURL(await mask.png());
  make("a", { href: url, download: "mask.png" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

for (const tool of ["brush", "eraser", "rectangle", "hand"]) $(tool).addEventListener("click", () => choose(tool));
for (const name of ["undo", "redo", "clear", "invert"]) $(name).addEventListener("click", () => mask[name]());
$("size").addEventListener("input", () => mask.grow(Number($("size").value) / 100));
$("load-mask").addEventListener("change", () => (load($("load-mask").files), ($("load-mask").value = "")));
$("save-mask").addEventListener("click", save);
$("zoom-in").addEventListener("click", () => zoom.by(1.5));
$("zoom-out").addEventListener("click", () => zoom.by(1 / 1.5));
zoom.changed = (scale) => {
  $("zoom-out").disabled = scale === 1;
  $("board").dataset.zoomed = String(scale > 1);
};
$("mask").addEventListener("pointermove", () => mask.stroke && changed());
$("base").addEventListener("keydown", (event) => {
  if ($("mask").hidden || event.target.matches("input, textarea, select")) return;
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (control && key === "z") event.shiftKey ? mask.redo() : mask.undo();
  else if (control && key === "y") mask.redo();
  else if (control || event.altKey) return;
  else if (key === "[") grow(mask.share - 0.04);
  else if (key === "]") grow(mask.share + 0.04);
  else if (key === "b") choose("brush");
  else if (key === "e") choose("eraser");
  else if (key === "r") choose("rectangle");
  else if (key === "h") choose("hand");
  else if (key === "i") mask.invert();
  else if (key === "+" || key === "=") zoom.by(1.5);
  else if (key === "-") zoom.by(1 / 1.5);
  else if (key === "delete" || key === "backspace") mask.clear();
  else return;
  event.preventDefault();
});
choose(matchMedia("(pointer: coarse)").matches ? "hand" : "brush");
