// The request: reads the form's fields for each task, sends them, and shows errors beside the fields.

import { api, keyed, post, write } from "./api.js";
import * as base from "./base.js";

const $ = (id) => document.getElementById(id);

export const TASKS = {
  generate: "Draw",
  inpaint: "Inpaint",
  outpaint: "Outpaint",
  vary: "Vary",
  fork: "Fork",
  expand: "Expand",
};
export const NEEDS_PICTURE = ["inpaint", "outpaint", "vary", "fork"];
const OF_THE_PICTURE = ["image", "mask", "source", "source.job", "source.image", "image_index"];

export const task = () => $("form").elements.task.value || "generate";

// Shows only the tasks that the model can do, and sets its defaults.
export function offer(model) {
  for (const input of $("form").elements.task) input.closest("label").hidden = !model.tasks.includes(input.value);
  $("tasks").hidden = model.tasks.filter((name) => name in TASKS).length < 2;
  if (!model.tasks.includes(task())) $("form").elements.task.value = "generate";
  if (model.settings.includes("steps")) $("steps").value = Math.round(Math.log2(model.defaults.steps));
  if (model.settings.includes("guidance_scale")) $("guidance_scale").value = model.defaults.guidance_scale;
  for (const side of ["width", "height"]) {
    const stride = model[side] / model.grid[side === "height" ? 0 : 1];
    Object.assign($(side), { step: stride, min: model[side], max: 4 * model[side] });
    $(side).value = model[side] + Math.round(model[side] / stride / 2) * stride;
  }
}

export function arrange(model) {
  const chosen = task();
  for (const field of $("form").querySelectorAll(".field, .pair")) {
    const { tasks, setting, conditioning } = field.dataset;
    if (field.contains($("models"))) continue; // offerModels decides
    field.hidden = Boolean(
      (tasks && !tasks.split(" ").includes(chosen)) ||
        (setting && !model.settings.includes(setting)) ||
        (conditioning && conditioning !== model.conditioning),
    );
  }
  $("draw").textContent = TASKS[chosen];
}

// Whether the request says what to draw. Without that there is nothing to guide.
const says = () => ["class", "prompt"].some((name) => !$(name).closest("[hidden]") && $(name).value.trim() !== "");

const number = ({ value }) => (value.trim() === "" ? undefined : Number(value));
const READ = {
  model: ({ value }) => ($("models").length > 1 ? value : undefined),
  class: ({ value }) => value.trim() || null,
  prompt: ({ value }) => value.trim() || null,
  negative_prompt: ({ value }) => value.trim() || undefined,
  n: number,
  steps: ({ value }) => 2 ** Number(value),
  guidance_scale: (control) => (says() ? number(control) : undefined),
  seed: ({ value }) => value.trim().replace(/^(-?)0+(?=\d)/, "$1") || undefined, // text: see write
  feather: number,
  seamless: ({ checked }) => checked,
  method: ({ value }) => value || undefined,
  ...Object.fromEntries(["left", "right", "up", "down", "keep", "step", "width", "height"].map((name) => [name, number])),
};

export function fields() {
  const found = {};
  for (const control of $("form").elements) {
    if (!READ[control.name] || control.closest("[hidden]")) continue;
    const value = READ[control.name](control);
    if (value !== undefined) found[control.name] = value;
  }
  if (task() === "fork") delete found.model;
  return found;
}

// Sends the request; resolves to the job.
export async function send(model) {
  const [chosen, asked, picture] = [task(), fields(), base.current()];
  if (!NEEDS_PICTURE.includes(chosen)) return post(`v1/${chosen}`, asked);
  if (picture === null) throw wrong("image", "Choose a picture first.");
  if (chosen === "fork") {
    if (!picture.job) throw wrong("image", "Only a picture that was drawn here can be forked.");
    return post(`v1/jobs/${encodeURIComponent(picture.job)}/fork`, { ...asked, image_index: picture.image });
  }
  if (chosen === "inpaint" && base.mask.empty) throw wrong("mask", "Paint the part that should be redrawn.");
  const painted = chosen === "inpaint" ? await base.mask.png() : null;
  if (picture.job && picture.model.id === model.id) {
    const source = { job: picture.job, image: picture.image };
    return post(`v1/${chosen}`, { ...asked, source, ...(painted && { mask: await dataURL(painted) }) });
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(asked)) if (value !== null) form.append(name, String(value));
  form.append("image", await base.fileOf(picture), "image");
  if (painted) form.append("mask", painted, "mask.png");
  return api(`v1/${chosen}`, { method: "POST", body: form });
}

function dataURL(blob) {
  return new Promise((resolve, reject) => {
    const reader = Object.assign(new FileReader(), { onload: () => resolve(reader.result), onerror: reject });
    reader.readAsDataURL(blob);
  });
}

const wrong = (field, message) => Object.assign(new Error(message), { problem: { errors: [{ field, message }] } });

// ---- shown ---------------------------------------------------------------------------------------------------

export function describe() {
  const asked = fields();
  const pixels = (name) => `${$(name).value} px`;
  const shown = {
    steps: 2 ** Number($("steps").value),
    guidance_scale: Number($("guidance_scale").value).toFixed(2),
    keep: `${Math.round(100 * Number($("keep").value))} %`,
    feather: pixels("feather"),
    width: pixels("width"),
    height: pixels("height"),
    step: `${$("step").value} of ${Number($("step").max) + 1}`,
  };
  for (const [name, words] of Object.entries(shown)) {
    $(`${name}-value`).value = words;
    $(name).setAttribute("aria-valuetext", String(words));
  }
  $("curl").textContent = curl(asked);
}

function curl(asked) {
  const [chosen, picture] = [task(), base.current()];
  const path = chosen === "fork" ? `v1/jobs/${picture?.job ?? "JOB"}/fork` : `v1/${chosen}`;
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const asJSON = (body) => `--json '${write(body).replaceAll("'", "\\u0027")}'`;
  const one = { ...asked, n: 1 };
  const files = ["image", ...(chosen === "inpaint" ? ["mask"] : [])].map((name) => `-F ${name}=@${name}.png`);
  const texts = Object.entries(one).filter(([, value]) => value !== null).map(([name, value]) => `-F ${quoted(`${name}=${value}`)}`);
  let body = asJSON(one);
  if (chosen === "fork") body = asJSON({ ...one, image_index: picture?.image ?? 0 });
  else if (NEEDS_PICTURE.includes(chosen) && chosen !== "inpaint" && picture?.job) {
    body = asJSON({ ...one, source: { job: picture.job, image: picture.image } });
  } else if (NEEDS_PICTURE.includes(chosen)) body = [...files, ...texts].join(" ");
  const key = keyed() ? "  -H \"Authorization: Bearer $ARPG_KEY\" \\\n" : "";
  return `curl ${body} \\\n${key}  -H 'Accept: image/png' -o picture.png \\\n  ${new URL(path, document.baseURI)}`;
}

// Shows an Error, beside its field if it names one; null: removes what was shown.
export function complain(error) {
  for (const words of document.querySelectorAll(".wrong:not(#wrong-key)")) words.remove();
  for (const control of document.querySelectorAll("main [aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-errormessage");
  }
  const rest = [];
  const errors = error?.problem?.errors ?? [];
  for (const { field, message } of errors) if (!mark(field, message)) rest.push(field ? `${field}: ${message}` : message);
  if (error && !errors.length) rest.push(error.message);
  $("problem").textContent = rest.join("; ");
  $("problem").hidden = !rest.length;
  document.querySelector("main [aria-invalid=true]")?.focus();
}

function mark(field, message) {
  const picture = OF_THE_PICTURE.includes(field);
  const control = picture ? $(field === "mask" ? "mask" : "base") : $("form").elements[field];
  const place = picture ? $("base") : control?.closest?.(".field");
  if (!place || place.closest("[hidden]")) return false;
  const words = Object.assign(document.createElement("p"), { className: "wrong", id: `wrong-${field}`, textContent: message });
  words.setAttribute("role", "alert");
  place.append(words);
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-errormessage", words.id);
  return true;
}
