// The picture that is worked on: where it comes from, and what is shown over it for each task.

import { Mask } from "./mask.js";
import { blank, lay, outline, paint, place } from "./tokens.js";

const $ = (id) => document.getElementById(id);
const KINDS = ["image/png", "image/jpeg", "image/webp"];

export const mask = new Mask($("mask"), $("ring"), () => {
  $("undo").disabled = mask.strokes.length === 0;
  $("redo").disabled = mask.undone.length === 0;
  $("clear").disabled = mask.empty;
  $("over").hidden = true; // it showed what came of another mask
});

// { url, width, height, name } and either its file or, drawn here, { job, image, model, grid, steps, history }.
let base = null;
let task = "generate";

export const current = () => base;

// Shows what a task wants: nothing, the picture, or a place to put one. words: how one gets there.
export function show(wanted, words) {
  if (wanted !== task) $("over").hidden = true;
  task = wanted;
  $("drop-words").textContent = words;
  $("choose").hidden = wanted === "fork"; // only what is drawn here has steps
  $("base").hidden = wanted === "generate" || wanted === "expand";
  $("drop").hidden = base !== null;
  $("board").hidden = $("other").hidden = base === null;
  const painting = base !== null && task === "inpaint";
  $("mask").hidden = $("tools").hidden = !painting;
  $("ring").hidden = true;
  arrange();
}

// What is added around it, and how far a fork goes back.
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
    throw new Error(`${picture.name} is not a picture that can be shown; take a PNG, JPEG or WebP`);
  }
  if (base?.file) URL.revokeObjectURL(base.url);
  base = { ...picture, width: image.naturalWidth, height: image.naturalHeight };
  image.alt = base.name;
  mask.begin(base.width, base.height);
  const [step, last] = [$("step"), Math.max(1, (base.steps ?? 2) - 1)];
  step.max = last;
  step.value = Math.ceil(last / 4);
}

// The picture itself, to be sent where the model does not know its tokens.
export async function fileOf({ file, url }) {
  return file ?? (await fetch(url)).blob();
}

// Which tokens were drawn anew: the mask, snapped to the grid.
export function showDrawn(tokens) {
  outline($("over"), tokens, getComputedStyle($("board")).getPropertyValue("--cells"));
  $("over").hidden = false;
  $("over").classList.remove("tokens");
}

// The picture as it was after a step. What it did not draw itself stays as it is.
function scrub(step) {
  const over = $("over");
  over.hidden = !base.history?.length;
  if (over.hidden) return;
  over.classList.add("tokens");
  lay(over, base.grid);
  const empty = getComputedStyle($("board")).getPropertyValue("--cell-a");
  for (const told of base.history) {
    if (told.step <= step) paint(over, base.model.palette, told.positions, told.tokens, base.grid);
    else blank(over, told.positions, base.grid, empty);
  }
}

// ---- hands ---------------------------------------------------------------------------------------------------

// taken: called with a picture from outside; complain: with what is wrong with it.
export function receive(taken, complain) {
  const bring = async (file) => {
    if (!file) return;
    if (!KINDS.includes(file.type)) return complain(new Error(`${file.name} is not a PNG, JPEG or WebP picture`));
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
