// The form: which fields a task and a model have, what they say, and errors beside them.

import { $, make } from "../ui/dom.js";
import { complain as toast } from "../ui/toasts.js";
import { wordsOf, wordsOfField } from "../ui/words.js";
import * as classSearch from "./class_search.js";
import * as dials from "./dials.js";

export const TASKS = { generate: "Draw", inpaint: "Inpaint", outpaint: "Outpaint", vary: "Vary", expand: "Expand" };
export const NEEDS_PICTURE = ["inpaint", "outpaint", "vary"];
const OF_THE_PICTURE = ["image", "mask", "source", "source.job", "source.image"];
const NUMBERS = [
  "n", "steps", "guidance_interval", "temperature", "top_k", "top_p", "quality", "feather",
  "left", "right", "up", "down", "keep", "width", "height",
];
const WRITTEN = ["steps", "guidance_scale"]; // the model's defaults stand in these, and are placeholders of those below
const PLACEHELD = ["temperature", "top_k", "top_p", "guidance_interval"];
const CHOSEN = ["schedule", "guidance_schedule", "content_attention"];
const TEXTS = ["schedule", "guidance_schedule", "content_attention", "format", "priority", "method"];

export const task = () => $("form").elements.task.value || "generate";
export const choose = (name) => ($("form").elements.task.value = name);

// Shows only what the model can do, and sets its defaults.
export function offer(model) {
  for (const input of $("form").elements.task) input.closest("label").hidden = !model.tasks.includes(input.value);
  $("tasks").hidden = model.tasks.filter((name) => name in TASKS).length < 2;
  if (!model.tasks.includes(task())) choose("generate");
  for (const name of [...WRITTEN, ...PLACEHELD, ...CHOSEN]) $(name).value = "";
  for (const name of WRITTEN) delete $(name).dataset.own;
  for (const side of ["width", "height"]) {
    const stride = model[side] / model.grid[side === "height" ? 0 : 1];
    for (const control of [$(side), $(`${side}-dial`)]) Object.assign(control, { step: stride, min: model[side], max: 4 * model[side] });
    $(side).value = model[side] + Math.round(model[side] / stride / 2) * stride;
  }
  $("expand-note").textContent = `Whole tokens of ${model.width / model.grid[1]} pixels; at most four times the model's tokens.`;
  dials.follow();
}

export function arrange(model) {
  showDefaults({ ...model.defaults, ...model.task_defaults[task()] }, model.settings);
  for (const field of $("form").querySelectorAll("[data-tasks], [data-setting], [data-conditioning]")) {
    const { tasks, setting, conditioning } = field.dataset;
    field.hidden = Boolean(
      (tasks && !tasks.split(" ").includes(task())) ||
        (setting && !model.settings.includes(setting)) ||
        (conditioning && conditioning !== model.conditioning),
    );
  }
  $("draw").textContent = TASKS[task()];
}

// The defaults of the task. A number that the user has changed stays.
function showDefaults(defaults, settings) {
  for (const name of WRITTEN.filter((each) => settings.includes(each))) {
    const control = $(name);
    if (control.value === (control.dataset.own ?? "")) control.value = defaults[name];
    control.dataset.own = defaults[name];
  }
  for (const name of PLACEHELD) $(name).placeholder = defaults[name] ?? "off";
  for (const name of CHOSEN) $(name).options[0].textContent = `the model's own: ${defaults[name] ?? "none"}`;
  dials.follow();
}

// Whether the request says what to draw. Without that there is nothing to guide.
const says = () => ["class", "prompt"].some((name) => !$(name).closest("[hidden]") && $(name).value.trim() !== "");

const number = ({ value }) => (value.trim() === "" ? undefined : Number(value));
const seed = ({ value }) => value.trim().replace(/^(-?)0+(?=\d)/, "$1") || undefined; // text: see write of api.js
const READ = {
  model: ({ value }) => ($("models").length > 1 ? value : undefined),
  class: ({ value }) => value.trim() || null,
  prompt: ({ value }) => value.trim() || null,
  negative_prompt: ({ value }) => value.trim() || undefined,
  guidance_scale: (control) => (says() ? number(control) : undefined),
  guidance_interval: (control) => (says() ? number(control) : undefined),
  guidance_schedule: ({ value }) => (says() && value) || undefined,
  seed,
  keep_seed: seed,
  seamless: ({ checked }) => checked,
  order: ({ value }) => (value.trim() ? value.trim().split(/[\s,]+/).map(Number) : undefined),
  ...Object.fromEntries(NUMBERS.map((name) => [name, number])),
  ...Object.fromEntries(TEXTS.map((name) => [name, ({ value }) => value || undefined])),
};

// What the form says, by the names of the API.
export function fields() {
  const found = {};
  for (const control of $("form").elements) {
    if (!READ[control.name] || control.closest("[hidden]")) continue;
    const value = READ[control.name](control);
    if (value !== undefined) found[control.name] = value;
  }
  return found;
}

// Fills the form in. given: values by the names of the API, such as a job's request.
export function fill(given) {
  for (const [name, value] of Object.entries(given)) {
    const control = $("form").elements[name];
    if (!READ[name] || !control || name === "model") continue;
    if (name === "class") control.value = value === null ? "" : classSearch.valueOf(value);
    else if (name === "seamless") control.checked = value === true || value === "true";
    else control.value = value ?? "";
    if (control.selectedIndex === -1) control.selectedIndex = 0; // its default has no value
  }
  dials.follow();
}

// ---- errors ---------------------------------------------------------------------------------------------------

export function settle() {
  for (const words of document.querySelectorAll("main .wrong")) words.remove();
  for (const control of document.querySelectorAll("main [aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-errormessage");
  }
}

// Shows an Error, beside its fields if it names some, or else as a message.
export function complain(error) {
  settle();
  const errors = error.problem?.errors ?? [];
  const rest = errors.filter((each) => !mark(each));
  if (!errors.length) toast(error);
  else if (rest.length) toast(new Error(rest.map(({ field, message }) => `${field}: ${message}`).join("; ")));
  document.querySelector("main [aria-invalid=true]")?.focus();
}

function mark(wrong) {
  const { field } = wrong;
  const picture = OF_THE_PICTURE.includes(field);
  const control = picture ? $(field === "mask" ? "mask" : "base") : $("form").elements[field];
  const place = picture ? $("base") : control?.closest?.(".field");
  if (!place || place.closest("[hidden]")) return false;
  place.closest("details")?.setAttribute("open", "");
  const words = make("p", { className: "wrong", id: `wrong-${field}`, role: "alert", textContent: wordsOfField(wrong) });
  place.append(words);
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-errormessage", words.id);
  return true;
}

export const wrong = (field, message) => Object.assign(new Error(message), { problem: { errors: [{ field, message }] } });
export { wordsOf };
