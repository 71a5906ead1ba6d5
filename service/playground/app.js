// The page: draws and edits pictures through the public API, and paints each token as it arrives. No build step.

import { api, askForKey } from "./api.js";
import * as base from "./base.js";
import { follow } from "./follow.js";
import * as catalogue from "./models.js";
import { frames } from "./pictures.js";
import * as request from "./request.js";

const $ = (id) => document.getElementById(id);

let model = null; // the model object of /v1/models, with its palette
let drawing = null; // the job being drawn: { job, task, stop, began, grid, pictures }

// ---- models --------------------------------------------------------------------------------------------------

async function start() {
  try {
    const models = await catalogue.models();
    catalogue.offerModels(models);
    $("models").onchange = () => choose(models[$("models").selectedIndex]);
    await choose(models[0]);
  } catch (error) {
    $("model").textContent = error.status === 401 ? "This server needs a key." : error.message;
  }
}

async function choose(found) {
  request.complain(null);
  $("draw").disabled = true;
  const wanted = () => $("models").value === found.id; // still the chosen model
  try {
    const [classes] = await Promise.all([catalogue.classesOf(found), catalogue.holdPalette(found, wanted)]);
    if (!wanted()) return; // the user has chosen another model meanwhile
    model = found;
    catalogue.describe(model);
    catalogue.offerClasses(classes);
    request.offer(model);
    $("draw").disabled = false;
    arrange();
  } catch (error) {
    request.complain(error);
  }
}

const edits = () => request.NEEDS_PICTURE.filter((task) => model.tasks.includes(task));

function arrange() {
  if (!model) return;
  request.arrange(model);
  const chosen = request.task();
  $("bench").classList.toggle("editing", request.NEEDS_PICTURE.includes(chosen));
  base.show(chosen, chosen === "fork" ? "Press Edit under a picture that was drawn here." : "Press Edit under a picture, drop or paste a picture file, or");
  request.describe();
  if (!drawing && !document.querySelector("figure img:not(.under)")) {
    frames(Number($("n").value), { model, grid: model.grid });
  }
}

// ---- the picture to edit -------------------------------------------------------------------------------------

async function edit(picture) {
  const can = edits().filter((task) => picture.job || task !== "fork");
  if (!can.length) return request.complain(new Error(`The model ${model.id} can't edit pictures.`));
  request.complain(null);
  try {
    await base.take(picture);
  } catch (error) {
    return request.complain(error);
  }
  if (!can.includes(request.task())) $("form").elements.task.value = can[0];
  arrange();
  $("base").scrollIntoView({ block: "nearest" });
  $("base").focus({ preventScroll: true });
}

// ---- drawing -------------------------------------------------------------------------------------------------

async function draw() {
  request.complain(null);
  busy(true);
  warn([]);
  say("Sending…");
  let job;
  try {
    job = await request.send(model);
  } catch (error) {
    busy(false);
    say("");
    request.complain(error);
    return;
  }
  const [task, picture] = [request.task(), base.current()];
  drawing = { job, task, began: null, grid: null, pictures: frames(job.request.n, about(job, task, picture)) };
  drawing.stop = follow(job, handlers);
  $("pictures").scrollIntoView({ block: "nearest" });
}

function about(job, task, picture) {
  const shown = { name: job.class_name ?? job.request.prompt, model, grid: model.grid, edit: edits().length ? edit : null };
  if (task === "fork") {
    const shared = (picture.history ?? []).filter(({ step }) => step <= job.fork.step);
    return { ...shown, model: picture.model, grid: picture.grid, shared };
  }
  if (!request.NEEDS_PICTURE.includes(task)) return shown;
  return { ...shown, under: { url: picture.url, width: picture.width, height: picture.height, padding: job.padding ?? {} } };
}

const handlers = {
  queued: ({ position }) => say(position ? `Waiting: ${position} ${position === 1 ? "job" : "jobs"} ahead.` : "Waiting for a worker…"),
  started: ({ attempt, grid, kept = [] }) => {
    drawing.began ??= performance.now();
    drawing.pictures.forEach((picture, index) => kept.includes(index) || picture.clear(grid));
    $("progress").hidden = false;
    say(attempt > 1 ? "The worker failed; drawing again." : "Drawing…");
  },
  tokens: (event) => {
    drawing.pictures[event.image_index].take(event);
    $("progress").value = drawing.pictures.reduce((sum, each) => sum + each.done, 0) / drawing.pictures.length;
    say(`Step ${event.step} of ${event.steps}: ${event.n_done} of ${event.n_total} tokens.`);
  },
  completed: ({ images, usage, warnings = [] }) => {
    const { job, task, began, pictures } = drawing;
    images.forEach((image, index) => pictures[index].show(image, { job, usage }));
    finish(began === null ? "Done." : `Done in ${((performance.now() - began) / 1000).toFixed(1)} s.`);
    warn(warnings);
    if (task === "inpaint") showMask(job);
  },
  failed: ({ error }) => {
    finish("");
    request.complain(error);
  },
  canceled: () => finish("Cancelled."),
  error: ({ error }) => say(`${error.message}; trying again…`),
  lost: () => say("The connection was lost; trying again…"),
  gone: (error) => {
    finish("");
    request.complain(error);
  },
};

// Outlines the tokens that the mask selected, over the picture that it was painted on.
async function showMask({ urls }) {
  const picture = base.current();
  try {
    const { mask_tokens } = await api(urls.self);
    if (!mask_tokens || base.current() !== picture || request.task() !== "inpaint" || drawing) return;
    base.showDrawn(mask_tokens);
    const cells = mask_tokens.flat();
    $("status").textContent += ` ${cells.filter(Boolean).length} of ${cells.length} tokens were redrawn.`;
  } catch {
    // The picture itself is there; only the outline is missing.
  }
}

function finish(status) {
  drawing.stop();
  drawing = null;
  busy(false);
  say(status);
}

async function cancel() {
  if (!drawing) return;
  say("Cancelling…");
  try {
    await api(drawing.job.urls.cancel, { method: "DELETE" });
  } catch (error) {
    request.complain(error);
  }
}

function busy(yes) {
  $("draw").disabled = yes;
  $("models").disabled = yes; // the pictures being drawn need this model's palette
  $("cancel").hidden = !yes;
  $("stage").setAttribute("aria-busy", String(yes));
  if (!yes) $("progress").hidden = true;
  $("progress").value = 0;
}

function say(status) {
  $("status").textContent = status;
}

// Shows what was done otherwise than the request says.
function warn(warnings) {
  const sentence = ({ message }) => `${message[0].toUpperCase()}${message.slice(1)}.`;
  $("warnings").textContent = warnings.map(sentence).join(" ");
  $("warnings").hidden = !warnings.length;
}

// ---- input ---------------------------------------------------------------------------------------------------

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (model && !drawing && !$("draw").disabled) draw();
});
$("form").addEventListener("input", () => {
  base.arrange();
  request.describe();
});
$("form").addEventListener("change", ({ target }) => {
  if (target.name === "task") request.complain(null);
  if (["task", "n"].includes(target.name)) arrange();
});
$("cancel").addEventListener("click", cancel);
$("dice").addEventListener("click", () => {
  $("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
  request.describe();
});
$("give-key").addEventListener("click", async () => {
  if ((await askForKey()) && !drawing) start();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("key-dialog").open) cancel();
});
base.receive(edit, request.complain);

start();
