// The strip of jobs: those that wait or are drawn, and those that the server still keeps.

import { $, make } from "../ui/dom.js";
import { complain } from "../ui/toasts.js";
import { paletteOf } from "./palettes.js";
import * as store from "./store.js";
import { lay, paint } from "./tokens.js";
import { titleOf } from "./words.js";

const items = new Map(); // job → { element, canvas, … }
let current = null;

// open: called with the job that the user chooses.
export function begin(open) {
  store.changes.addEventListener("change", () => draw(open));
  $("older").addEventListener("click", () => store.loadMore().catch(complain));
}

export function mark(job) {
  current = job;
  for (const [each, { link }] of items) link.setAttribute("aria-current", String(each === job));
}

function draw(open) {
  const jobs = store.all();
  const wanted = jobs.map((job) => itemOf(job, open));
  const list = $("jobs");
  wanted.forEach((element, k) => list.children[k] !== element && list.insertBefore(element, list.children[k] ?? null));
  while (list.children.length > wanted.length) list.lastChild.remove();
  for (const job of jobs) refresh(job);
  $("history").hidden = !jobs.length;
  $("older").hidden = !store.more();
  const running = store.unfinished();
  $("under-way").textContent = running.length ? `${running.length} ${running.length === 1 ? "job" : "jobs"} under way` : "";
}

function itemOf(job, open) {
  if (!items.has(job)) items.set(job, item(job, open));
  return items.get(job).element;
}

function item(job, open) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  const face = make("span", { className: "face" }, canvas);
  const [name, state] = [make("span", { className: "name" }), make("span", { className: "state" })];
  const link = make("button", { type: "button", className: "job", "aria-current": String(job === current) }, face, name, state);
  link.addEventListener("click", () => open(job));
  const made = { element: make("li", {}, link), link, face, canvas, name, state, image: null, palette: null };
  job.addEventListener("tokens", ({ detail }) => detail.index === 0 && take(job, made, detail));
  job.addEventListener("cleared", () => (made.laid = false));
  if (!job.over) paletteOf(job.told.model).then((palette) => (made.palette = palette));
  return made;
}

function take(job, made, { positions, tokens }) {
  const { grid } = job.pictures[0];
  if (!made.palette || made.image || !grid) return;
  if (!made.laid) {
    lay(made.canvas, grid);
    made.laid = true;
    for (const event of job.pictures[0].history) paint(made.canvas, made.palette, event.positions, event.tokens, grid);
  }
  paint(made.canvas, made.palette, positions, tokens, grid);
}

function refresh(job) {
  const made = items.get(job);
  const { status, images = [] } = job.told;
  const states = { queued: "waits", running: `${Math.round(100 * job.progress)} %`, failed: "failed", canceled: "cancelled", succeeded: "" };
  const count = job.pictures.length;
  made.name.textContent = titleOf(job);
  made.state.textContent = states[status] || (count > 1 ? `${count} pictures` : "");
  made.link.dataset.status = status;
  const url = job.pictures[0].url ?? (typeof images[0] === "string" ? images[0] : images[0]?.url);
  if (status === "succeeded" && url && !made.image) {
    made.image = make("img", { alt: "", src: url, loading: "lazy" });
    made.image.onerror = () => made.image.remove(); // it has expired
    made.face.append(made.image);
  }
}
