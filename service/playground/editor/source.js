// The picture to edit, and what is shown over it for each task.

import { $ } from "../ui/dom.js";
import { place } from "../jobs/tokens.js";
import * as outpaint from "./outpaint.js";
import * as tools from "./tools.js";

export const mask = tools.mask;

// { url, width, height, name }, with its file or, if it was drawn here, { job, image, model, grid }.
let base = null;
let task = "generate";
let model = null;

export const current = () => base;

// Whether a picture that was drawn here goes to the server as its tokens.
export const reused = (chosen) => base?.job !== undefined && base.model === chosen.id;

// Shows what a task needs: nothing, the picture, or a place to drop one.
export function show(wanted, chosen) {
  [task, model] = [wanted, chosen];
  $("base").hidden = task === "generate" || task === "expand";
  $("bench").classList.toggle("editing", !$("base").hidden);
  $("drop").hidden = base !== null;
  $("board").hidden = $("other").hidden = base === null;
  const painting = base !== null && task === "inpaint";
  $("mask").hidden = $("tools").hidden = !painting;
  $("handles").hidden = base === null || task !== "outpaint";
  $("ring").hidden = $("over").hidden = true;
  tools.zoom.reset();
  arrange();
  if (base !== null) tools.use(gridOf());
}

// The grid on which the picture is drawn again.
const gridOf = () => (reused(model) ? base.grid : model.grid);

// Shows the borders that outpainting adds.
export function arrange() {
  outpaint.describe();
  if (base === null) return;
  const borders = task === "outpaint" ? outpaint.padding() : {};
  const shape = place($("picture"), base, borders);
  $("board").style.setProperty("--shape", shape);
  $("board").style.aspectRatio = String(shape);
  $("board").classList.toggle("extended", task === "outpaint");
  const [across, high] = [base.width / gridOf()[1], base.height / gridOf()[0]];
  outpaint.use(Math.min(across, high));
}

export async function take(picture) {
  const image = $("picture");
  image.src = picture.url;
  try {
    await image.decode();
  } catch {
    if (picture.file) URL.revokeObjectURL(picture.url);
    image.src = base?.url ?? "";
    throw new Error(`${picture.name} can't be read as a picture. Choose a PNG, JPEG or WebP file.`);
  }
  base = { ...picture, width: image.naturalWidth, height: image.naturalHeight };
  image.alt = base.name;
  mask.begin(base.width, base.height);
}

// The picture as a file, for an upload.
export async function fileOf({ file, url }) {
  return file ?? (await fetch(url)).blob();
}
