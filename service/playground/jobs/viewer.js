// Shows one job: its state, and its pictures as large as there is room for.

import { $ } from "../ui/dom.js";
import { announce } from "../ui/toasts.js";
import { Zoom } from "../editor/zoom.js";
import { paletteOf } from "./palettes.js";
import { Picture } from "./picture.js";
import { detailsOf, statusOf, titleOf, warningsOf, whyBlank } from "./words.js";

let shown = null; // { job, pictures, zoom, said }
let actions = {};

export const current = () => shown?.job ?? null;

// given: functions by name: edit, fork and link, each called with a picture; null where there is no such thing.
export function begin(given) {
  actions = given;
  $("cancel").addEventListener("click", () => shown?.job.cancel());
  $("fit").addEventListener("click", () => enlarge(null));
  $("closer").addEventListener("click", () => shown?.zoom?.by(1.5));
  $("further").addEventListener("click", () => shown?.zoom?.by(1 / 1.5));
  // Times go by also between events.
  setInterval(() => shown && !shown.job.over && say(), 1000);
}

// Shows a job. grid: of its model, as long as its own is not known. task: what can be done with its pictures.
export function show(job, { grid, can }) {
  close();
  job.follow();
  const under = underOf(job);
  const given = {
    enlarge: job.pictures.length > 0 ? (picture) => enlarge(shown.solo ? null : picture) : null,
    edit: can.edit ? actions.edit : null,
    fork: can.fork ? actions.fork : null,
    link: can.link ? actions.link : null,
  };
  shown = { job, pictures: [], zoom: null, solo: null, stop: new AbortController(), said: job.mine ? [] : null };
  const about = { palette: null, grid, under };
  shown.pictures = job.pictures.map((_, index) => new Picture(job, index, about, given, say));
  const { signal } = shown.stop;
  job.addEventListener("tokens", ({ detail: { index, positions, tokens } }) => shown.pictures[index].take(positions, tokens), { signal });
  job.addEventListener("cleared", () => shown.pictures.forEach((picture) => picture.clear()), { signal });
  job.addEventListener("change", () => shown.pictures.forEach((picture) => picture.update()) ?? say(), { signal });
  const pictures = shown.pictures;
  paletteOf(job.told.model).then((palette) => pictures.forEach((picture) => picture.colour(palette)));
  $("pictures").style.setProperty("--shape", job.told.width / job.told.height);
  $("viewer").hidden = false;
  $("empty").hidden = true;
  $("pictures").replaceChildren(...pictures.map(({ figure }) => figure));
  $("job-title").textContent = titleOf(job);
  layOut();
  say();
}

function close() {
  shown?.stop.abort();
  shown?.zoom?.close();
  shown = null;
}

// The picture that a job starts from, and where it lies on the canvas.
function underOf({ told, before }) {
  const { source } = told.request ?? {};
  if (told.fork || (!before && !source)) return null;
  const url = before?.url ?? `v1/jobs/${encodeURIComponent(source.job)}/images/${source.image ?? 0}`;
  const padding = told.padding ?? {};
  const { left = 0, right = 0, up = 0, down = 0 } = padding;
  return { url, width: told.width - left - right, height: told.height - up - down, padding };
}

function layOut() {
  const count = shown.solo ? 1 : shown.pictures.length;
  $("pictures").dataset.count = count === 1 ? "one" : count === 2 ? "two" : count <= 4 ? "few" : count <= 9 ? "some" : "many";
}

// Shows one picture alone, with zoom; null: all of them.
function enlarge(picture) {
  shown.zoom?.close();
  shown.solo = picture;
  shown.zoom = picture && new Zoom(picture.box, { wheel: true, drag: true });
  for (const { figure } of shown.pictures) figure.hidden = picture !== null && figure !== picture.figure;
  for (const control of ["fit", "closer", "further"]) $(control).hidden = picture === null;
  layOut();
  if (picture) $("fit").focus();
}

function say() {
  const { job, pictures, said } = shown;
  const there = pictures.filter((picture) => picture.there).length;
  const status = statusOf(job, there);
  if ($("status").textContent !== status) $("status").textContent = status;
  $("job-details").textContent = detailsOf(job);
  $("cancel").hidden = job.over;
  $("progress").hidden = job.over;
  $("progress").value = job.progress || 0;
  $("stage").setAttribute("aria-busy", String(!job.over));
  $("nothing").hidden = !job.blank;
  $("pictures").hidden = $("reuse").hidden = job.blank;
  $("why-nothing").textContent = job.blank ? whyBlank(job) : "";
  $("warnings").textContent = warningsOf(job);
  $("warnings").hidden = !job.warnings.length;
  if (said) sayAloud(job, status, there, said);
}

// A few times in a draw: begun, half, done.
function sayAloud(job, status, there, said) {
  const done = job.status === "succeeded" && there === job.pictures.length;
  const at = done ? "done" : job.status === "running" ? (job.progress >= 0.5 ? "half" : "running") : job.status;
  if (said.includes(at) || (job.status === "succeeded" && !done)) return;
  said.push(at);
  announce(at === "half" ? `Half of ${titleOf(job)} is drawn.` : `${titleOf(job)}: ${status}`);
}

// What Escape does: goes back from an enlarged picture, or cancels the job.
export function escape() {
  if (shown?.solo) enlarge(null);
  else if (shown && !shown.job.over) shown.job.cancel();
}
