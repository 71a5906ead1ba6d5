// The picture to edit: how the user chooses it, and what is shown over it for each task.

import { Mask } from "./mask.js";
import { blank, lay, outline, paint, place } from "./tokens.js";

const $ = (id) => document.getElementById(id);
const KINDS = ["image/png", "image/jpeg", "image/webp"];

export const mask = new Mask($("mask"), $("ring"), () => {
  $("undo").disabled = mask.strokes.length === 0;
  $("redo").disabled = mask.undone.length === 0;
  $("clear").disabled = mask.empty;
  $("over").hidden = true; // it outlined the tokens of the previous mask
});

// { url, width, height, name }, with its file or, if it was drawn here, { job, image, model, grid, steps, history }.
let base = null;
let task = "generate";

export const current = () => base;

// Shows what a task needs: nothing, the picture, or a place to drop one. words: how to choose a picture.
export function show(wanted, words) {
  if (wanted !== task) $("over").hidden = true;
  task = wanted;
  $("drop-words").textContent = words;
  $("choose").hidden = wanted === "fork"; // only pictures that were drawn here can be forked
  $("base").hidden = wanted === "generate" || wanted === "expand";
  $("drop").hidden = base !== null;
  $("board").hidden = $("other").hidden = base === null;
  const painting = base !== null && task === "inpaint";
  $("mask").hidden = $("tools").hidden = !painting;
  $("ring").hidden = true;
  arrange();
}

// Shows the borders that outpainting adds, and the step that a fork starts from.
export function arrange() {
  if (base === null) return;
  const sides = ["left", "right", "up", "down"].map((side) => [side, task === "outpaint" ? Math.max(0, Number($(side).value) || 0) : 0]);
  const shape = place($("picture"), base, Object.fromEntries(sides));
  for (const over of ["mask", "over"]) place($(over), base);
  $("board").style.setProperty("--shape", shape);
  $("board").style.aspectRatio = String(shape);
  $("board").classList.toggle("extended", task === "outpaint");
  if (task === "fork") scrub(Number($("step").value));
}

export async function take(picture) {
  const image = $("picture");
  image.src = picture.url;
  try {
    await image.decode();
  } catch {
    if (picture.file) URL.revokeObjectURL(picture.url);
    image.src = base?.url ?? "";
    throw new Error(`${picture.name} can't be read as a picture; choose a PNG, JPEG or WebP file.`);
  }
  if (base?.file) URL.revokeObjectURL(base.url);
  base = { ...picture, width: image.naturalWidth, height: image.naturalHeight };
  image.alt = base.name;
  mask.begin(base.width, base.height);
  const [step, last] = [$("step"), Math.max(1, (base.steps ?? 2) - 1)];
  step.max = last;
  step.value = Math.ceil(last / 4);
}

// The picture as a file, for an upload.
export async function fileOf({ file, url }) {
  return file ?? (await fetch(url)).blob();
}

// Outlines the tokens that were redrawn: the mask, snapped to the grid.
export function showDrawn(tokens) {
  outline($("over"), tokens, getComputedStyle($("board")).getPropertyValue("--cells"));
  $("over").hidden = false;
  $("over").classList.remove("tokens");
}

// Shows the picture as it was after a step. Parts that were not drawn, such as those outside a mask, stay.
function scrub(step) {
  const over = $("over");
  over.hidden = !base.history?.length;
  if (over.hidden) return;
  over.classList.add("tokens");
  lay(over, base.grid);
  const empty = getComputedStyle($("board")).getPropertyValue("--cell-a");
  for (const event of base.history) {
    if (event.step <= step) paint(over, base.model.palette, event.positions, event.tokens, base.grid);
    else blank(over, event.positions, base.grid, empty);
  }
}

// ---- input ---------------------------------------------------------------------------------------------------

// Accepts pictures by file choice, drop and paste. taken: called with a picture; complain: with an Error.
export function receive(taken, complain) {
  const bring = async (file) => {
    if (!file) return;
    if (!KINDS.includes(file.type)) return complain(new Error(`${file.name} is not a PNG, JPEG or WebP picture.`));
    await taken({ url: URL.createObjectURL(file), name: file.name || "a pasted picture", file });
  };
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      bring(input.files[0]);
      input.value = "";
    });
  }
  const files = (event) => [...(event.dataTransfer ?? event.clipboardData).items].filter(({ kind }) => kind === "file");
  document.addEventListener("dragover", (event) => {
    if (!files(event).length) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => document.body.classList.remove("dropping"));
  for (const name of ["drop", "paste"]) {
    document.addEventListener(name, (event) => {
      const [first] = files(event);
      if (!first) return;
      event.preventDefault();
      bring(first.getAsFile());
    });
  }
}

const erase = (yes) => {
  mask.erasing = yes;
  $("erase").setAttribute("aria-pressed", String(yes));
};
const grow = (share) => {
  mask.grow(share);
  $("size").value = Math.round(mask.share * 100);
};
$("undo").addEventListener("click", () => mask.undo());
$("redo").addEventListener("click", () => mask.redo());
$("clear").addEventListener("click", () => mask.clear());
$("erase").addEventListener("click", () => erase(!mask.erasing));
$("size").addEventListener("input", () => mask.grow(Number($("size").value) / 100));
$("base").addEventListener("keydown", (event) => {
  if ($("mask").hidden) return;
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (control && key === "z") event.shiftKey ? mask.redo() : mask.undo();
  else if (control && key === "y") mask.redo();
  else if (control || event.altKey) return;
  else if (key === "[") grow(mask.share - 0.04);
  else if (key === "]") grow(mask.share + 0.04);
  else if (key === "e") erase(!mask.erasing);
  else if (key === "delete" || key === "backspace") mask.clear();
  else return;
  event.preventDefault();
});
