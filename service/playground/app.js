// The page: draws and edits pictures through the public API, and paints each token as it arrives. No build step.

import * as source from "./editor/source.js";
import { receive } from "./editor/files.js";
import * as classSearch from "./form/class_search.js";
import * as examplePrompts from "./form/example_prompts.js";
import { LANGUAGES } from "./form/examples.js";
import * as form from "./form/form.js";
import * as catalogue from "./form/models.js";
import * as permalink from "./form/permalink.js";
import * as request from "./form/request.js";
import * as history from "./jobs/history.js";
import * as load from "./jobs/load.js";
import * as store from "./jobs/store.js";
import * as viewer from "./jobs/viewer.js";
import { stepsOf } from "./jobs/words.js";
import { post } from "./server/api.js";
import { askForKey } from "./server/key.js";
import * as stream from "./server/stream.js";
import { copy } from "./ui/copy.js";
import { $ } from "./ui/dom.js";
import { announce, closeErrors, complain, tell } from "./ui/toasts.js";
import { wordsOf } from "./ui/words.js";

let models = []; // the model objects of /v1/models
let model = null; // the one that is chosen
let sending = false;

// ---- models ---------------------------------------------------------------------------------------------------

async function start() {
  try {
    models = await catalogue.models();
  } catch (error) {
    $("model").textContent = error.status === 401 ? "This server needs a key." : wordsOf(error);
    return;
  }
  catalogue.offer(models);
  await choose(models[0]);
  await restore();
  drawLinked(permalink.asked());
  load.watch();
  store.watch();
}

async function choose(found) {
  $("draw").disabled = true;
  $("models").value = found.id;
  try {
    const classes = found.conditioning === "class" ? await catalogue.classesOf(found) : [];
    if ($("models").value !== found.id) return; // the user has chosen another model meanwhile
    model = found;
    catalogue.describe(model);
    classSearch.offer(classes);
    examplePrompts.offer(model);
    form.offer(model);
    $("draw").disabled = false;
    arrange();
  } catch (error) {
    complain(error);
  }
}

function arrange() {
  if (!model) return;
  form.arrange(model);
  source.show(form.task(), model);
  exemplify();
}

// ---- jobs -----------------------------------------------------------------------------------------------------

// The jobs that the server still knows; a job under way is shown, or else the last one.
async function restore() {
  try {
    await store.load();
  } catch (error) {
    return complain(error);
  }
  const [first] = [...store.unfinished(), ...store.all().filter(({ status }) => status === "succeeded")];
  if (first && !opened) open(first);
}

let opened = null; // the last job that the user asked for

async function open(job) {
  opened = job;
  try {
    await job.whole();
  } catch (error) {
    return complain(error);
  }
  const own = models.find(({ id }) => id === job.told.model);
  if (job.told.fork && !job.shared) await share(job);
  if (opened !== job) return; // the user has chosen another one meanwhile
  const tasks = own?.tasks ?? [];
  const can = {
    edit: form.NEEDS_PICTURE.some((task) => tasks.includes(task)),
    fork: tasks.includes("fork") && !windowed(job),
    link: permalink.linked(job),
  };
  viewer.show(job, { grid: own?.grid ?? [16, 16], can });
  history.mark(job);
}

// What is drawn in windows can't be forked.
const windowed = ({ told }) => told.task === "outpaint" || told.request.method === "windowed";

// The steps that a fork shares with its parent, in the parent's order.
async function share(job) {
  const { fork } = job.told;
  try {
    const parent = await store.find(fork.job);
    await parent.whole();
    const events = new Promise((resolve) => parent.addEventListener("pictures", resolve, { once: true }));
    parent.follow();
    if (parent.over && !parent.pictures[fork.image].history.length) await events;
    if (parent.pictures[fork.image].history.length) job.shared = upTo(parent.pictures[fork.image], fork.step);
  } catch {
    // The parent has expired: its steps come as one.
  }
}

const upTo = ({ history }, last) => history.filter(({ step }) => step <= last);

async function draw() {
  if (sending || $("draw").disabled) return;
  sending = true;
  form.settle();
  try {
    const picture = form.NEEDS_PICTURE.includes(form.task()) ? source.current() : null;
    const asked = await request.send(await request.compose(model));
    await shown(store.add(asked, { before: picture && { url: picture.url }, mine: true }));
  } catch (error) {
    form.complain(error);
  }
  sending = false;
}

// Draws what a link asks for.
async function drawLinked(fields) {
  if (fields === null) return;
  const named = models.find(({ id }) => id === fields.model);
  if (!named) return complain(new Error(`This server has no model ${fields.model}, which the link names. Choose another one.`));
  if (named !== model) await choose(named);
  fill(fields.task, fields);
  await draw();
}

function fill(task, fields) {
  if (task in form.TASKS) form.choose(task);
  arrange();
  form.fill(fields);
  exemplify();
}

// Shows a job that the server has just accepted.
async function shown(job) {
  closeErrors();
  announce(`${job.name ?? "Anything"}: sent.`);
  await open(job);
  $("viewer").scrollIntoView({ block: "nearest" });
}

async function fork(picture) {
  const { job, index, timeline } = picture;
  if (!timeline.step || timeline.step >= stepsOf(job)) {
    return complain(new Error("Move the slider under the picture to the step from which to fork, then press Fork."));
  }
  const { n, seed, priority } = form.fields();
  const asked = { step: timeline.step, image_index: index, n, ...(seed && { seed }), ...(priority && { priority }) };
  try {
    const told = await post(`v1/jobs/${encodeURIComponent(job.id)}/fork`, asked);
    await shown(store.add(told, { shared: upTo(picture.drawn, told.fork.step), mine: true }));
  } catch (error) {
    complain(error);
  }
}

async function edit({ job, index, drawn, image, grid }) {
  await begin({ url: drawn.url, name: image.alt, job: job.id, image: index, model: job.told.model, grid });
}

// Takes a picture to the editor.
async function begin(picture) {
  const can = form.NEEDS_PICTURE.filter((task) => model.tasks.includes(task));
  if (!can.length) return complain(new Error(`The model ${model.id} can't edit pictures. Choose another model.`));
  try {
    await source.take(picture);
  } catch (error) {
    return complain(error);
  }
  form.settle();
  if (!can.includes(form.task())) form.choose(can[0]);
  arrange();
  $("base").scrollIntoView({ block: "nearest" });
  $("base").focus({ preventScroll: true });
}

async function link({ job, drawn }) {
  const copied = await copy(permalink.linkTo(job, drawn.seed));
  copied ? tell("The link is copied. It draws this picture again.") : complain(new Error("This browser does not let the page copy."));
}

async function reuse() {
  const { told } = viewer.current();
  const own = models.find(({ id }) => id === told.model);
  if (own && own !== model) await choose(own);
  fill(told.task, told.request);
}

// ---- examples -------------------------------------------------------------------------------------------------

async function exemplify() {
  if (!$("examples").open || !model) return;
  $("example").textContent = LANGUAGES[$("language").value](await request.compose(model, { drafted: true }));
}

// ---- input ----------------------------------------------------------------------------------------------------

viewer.begin({ edit, fork, link });
history.begin(open);
receive(document.querySelectorAll("input.source"), begin, complain);

$("models").addEventListener("change", () => choose(models[$("models").selectedIndex]));
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (model) draw();
});
$("form").addEventListener("input", () => {
  source.arrange();
  exemplify();
});
$("form").addEventListener("change", ({ target }) => {
  if (target.name !== "task") return exemplify();
  form.settle();
  arrange();
});
for (const name of ["pointerup", "keyup"]) $("base").addEventListener(name, exemplify);
$("examples").addEventListener("toggle", exemplify);
$("language").addEventListener("change", exemplify);
$("copy-example").addEventListener("click", async () => {
  if (await copy($("example").textContent)) tell("Copied.");
});
$("dice").addEventListener("click", () => {
  $("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
  exemplify();
});
for (const name of ["reuse", "reuse-failed"]) $(name).addEventListener("click", reuse);
$("give-key").addEventListener("click", async () => {
  if (!(await askForKey())) return;
  model ? stream.retry() : start();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("key-dialog").open) viewer.escape();
});
window.addEventListener("hashchange", () => model && drawLinked(permalink.asked()));

start();
