// Draws through the public API and paints every token as it arrives. No library, no build.
// Paths are relative to the page, which a proxy may serve under a prefix; the URLs in answers carry that prefix.

const $ = (id) => document.getElementById(id);
const FEW_CLASSES = 64;

let model = null; // the model object of /v1/models
let palette = null; // Uint8Array [codes][4][4][3]; null while the worker still makes it
const PALETTE_AGAIN_MS = 5000;
let current = null; // the job being drawn: { job, source, pictures }

// ---- what there is -------------------------------------------------------------------------------------------

async function api(path, options) {
  const response = await fetch(path, options);
  const body = response.status === 204 ? null : await response.json();
  if (!response.ok) throw Object.assign(new Error(body.detail), { problem: body });
  return body;
}

async function start() {
  for (;;) {
    try {
      const { models } = await api("v1/models");
      if (models.length) {
        offerModels(models);
        await use(models[0]);
        return;
      }
      $("model").textContent = "the model is loading…";
    } catch (error) {
      $("model").textContent = `the server does not answer (${error.message})`;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function offerModels(models) {
  const select = $("models");
  select.replaceChildren(...models.map(({ id }) => new Option(id, id)));
  select.closest(".field").hidden = models.length === 1;
  select.onchange = async () => {
    complain(null);
    $("draw").disabled = true;
    try {
      await use(models[select.selectedIndex]);
    } catch (error) {
      complain(error);
    }
  };
}

async function use(found) {
  const [{ classes }, colours] = await Promise.all([api(found.urls.classes), paletteOf(found)]);
  if ($("models").value !== found.id) return; // another one was chosen meanwhile
  model = found;
  palette = colours;
  if (palette === null) awaitPalette(found);
  const steps = model.steps === null ? "" : ` in ${model.steps} steps`;
  $("model").textContent = `${model.id}: ${model.width}×${model.height} pixels from ${model.grid[0]}×${model.grid[1]} tokens${steps}`;
  offerClasses(classes);
  for (const name of ["steps", "guidance_scale"]) $(name).closest(".field").hidden = !model.settings.includes(name);
  if (model.settings.includes("steps")) $("steps").value = Math.round(Math.log2(model.defaults.steps));
  if (model.settings.includes("guidance_scale")) $("guidance_scale").value = model.defaults.guidance_scale;
  $("draw").disabled = false;
  describe();
  if (!document.querySelector("figure img")) frames(Number($("n").value), null);
}

async function paletteOf(found) {
  try {
    const { rgb } = await api(found.urls.palette);
    return Uint8Array.from(atob(rgb), (c) => c.charCodeAt(0));
  } catch {
    return null;
  }
}

async function awaitPalette(found) {
  while (model === found && palette === null) {
    await new Promise((resolve) => setTimeout(resolve, PALETTE_AGAIN_MS));
    const colours = await paletteOf(found);
    if (model === found) palette = colours;
  }
}

function offerClasses(classes) {
  const before = $("class").value;
  if (classes.length > FEW_CLASSES) {
    const input = Object.assign(document.createElement("input"), { id: "class", name: "class", autocomplete: "off" });
    input.setAttribute("list", "classes");
    input.placeholder = `one of ${classes.length}; type to search`;
    const list = Object.assign(document.createElement("datalist"), { id: "classes" });
    list.append(...classes.map(({ name }) => new Option(name, name)));
    $("class-slot").replaceChildren(input, list);
  } else {
    const select = Object.assign(document.createElement("select"), { id: "class", name: "class" });
    select.append(...classes.map(({ name }) => new Option(name, name)), new Option("— no class —", ""));
    const same = classes.findIndex(({ name }) => name === before);
    select.selectedIndex = same >= 0 ? same : Math.floor(Math.random() * classes.length);
    $("class-slot").replaceChildren(select);
  }
}

// ---- the request ---------------------------------------------------------------------------------------------

function request() {
  const chosen = $("class").value.trim();
  const fields = { class: chosen === "" ? null : chosen, n: Number($("n").value) };
  if ($("models").length > 1) fields.model = model.id;
  if (model.settings.includes("steps")) fields.steps = 2 ** Number($("steps").value);
  if (fields.class !== null && model.settings.includes("guidance_scale")) {
    fields.guidance_scale = Number($("guidance_scale").value);
  }
  const seed = $("seed").value.trim();
  if (seed !== "") fields.seed = /^\d+$/.test(seed) ? Number(seed) : seed;
  return fields;
}

function describe() {
  if (!model) return;
  const fields = request();
  const steps = 2 ** Number($("steps").value);
  $("steps-value").value = steps;
  $("steps").setAttribute("aria-valuetext", String(steps));
  $("guidance-value").value = Number($("guidance_scale").value).toFixed(2);
  const body = JSON.stringify({ ...fields, n: 1 }).replaceAll("'", "\\u0027");
  $("curl").textContent = `curl --json '${body}' \\\n  -H 'Accept: image/png' -o picture.png \\\n  ${new URL("v1/generate", document.baseURI)}`;
}

function complain(error) {
  const box = $("problem");
  box.textContent = error ? error.message : "";
  box.hidden = !error;
  const wrong = new Set((error?.problem?.errors ?? []).map(({ field }) => field));
  for (const field of $("form").elements) if (field.name) field.setAttribute("aria-invalid", String(wrong.has(field.name)));
}

// ---- drawing -------------------------------------------------------------------------------------------------

async function draw() {
  complain(null);
  const fields = request();
  busy(true);
  say("Sending…");
  let job;
  try {
    job = await api("v1/generate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(fields),
    });
  } catch (error) {
    busy(false);
    say("");
    complain(error);
    return;
  }
  const source = new EventSource(job.urls.events);
  current = { job, source, began: null, pictures: frames(fields.n, fields.class) };
  // The browser reconnects by itself and goes on after the last event it has seen.
  for (const [name, hear] of Object.entries(hearing)) {
    source.addEventListener(name, (event) => {
      if (current?.source === source && event.data) hear(JSON.parse(event.data));
    });
  }
  source.onerror = ({ data }) => {
    if (current?.source !== source || data) return; // data: the server's own word, heard above
    if (source.readyState === EventSource.CLOSED) lookUp(current);
    else say("The connection was lost; trying again…");
  };
}

// The stream was refused (expired, no room, all seen), and a browser then gives up for good.
async function lookUp(lost) {
  let job;
  try {
    job = await api(lost.job.urls.self);
  } catch (error) {
    if (current !== lost) return;
    finish("");
    complain(error);
    return;
  }
  if (current !== lost) return;
  const end = { succeeded: hearing.completed, failed: hearing.failed, canceled: hearing.canceled }[job.status];
  if (end) end(job);
  else finish(`The live view was refused; the job goes on without it: ${new URL(job.urls.self, location)}`);
}

const hearing = {
  queued: ({ position }) => say(position ? `Waiting: ${position} ahead.` : "Waiting for the worker…"),
  started: (data) => {
    current.began ??= performance.now();
    current.grid = data.grid;
    current.pictures.forEach((picture) => picture.clear(data.grid));
    $("progress").hidden = false;
    say(data.attempt > 1 ? "A worker was lost; drawing again." : "Drawing…");
  },
  tokens: (data) => {
    const picture = current.pictures[data.image_index];
    picture.paint(data.positions, data.tokens, current.grid);
    picture.done = data.n_done / data.n_total;
    $("progress").value = current.pictures.reduce((sum, each) => sum + each.done, 0) / current.pictures.length;
    say(`Step ${data.step} of ${data.steps}: ${data.n_done} of ${data.n_total} tokens.`);
  },
  completed: ({ images }) => {
    images.forEach((image, index) => current.pictures[index].show(image));
    const seconds = current.began === null ? null : (performance.now() - current.began) / 1000;
    finish(seconds === null ? "Done." : `Done in ${seconds.toFixed(1)} s.`);
  },
  failed: ({ error }) => {
    finish("");
    complain(error);
  },
  canceled: () => finish("Cancelled."),
  error: ({ error }) => say(`${error.message}; trying again…`),
};

function finish(words) {
  current.source.close();
  current = null;
  busy(false);
  say(words);
}

async function cancel() {
  if (!current) return;
  say("Cancelling…");
  try {
    await api(current.job.urls.cancel, { method: "DELETE" });
  } catch (error) {
    complain(error);
  }
}

function busy(yes) {
  $("draw").disabled = yes;
  $("models").disabled = yes; // the palette must stay that of what is drawn
  $("cancel").hidden = !yes;
  $("stage").setAttribute("aria-busy", String(yes));
  if (!yes) $("progress").hidden = true;
  $("progress").value = 0;
}

function say(words) {
  $("status").textContent = words;
}

// ---- pictures ------------------------------------------------------------------------------------------------

function frames(n, name) {
  const pictures = Array.from({ length: n }, (_, index) => frame(name, index));
  $("pictures").className = n === 1 ? "one" : n <= 4 ? "few" : "";
  $("pictures").replaceChildren(...pictures.map(({ figure }) => figure));
  return pictures;
}

function frame(name, index) {
  const figure = document.createElement("figure");
  const box = Object.assign(document.createElement("div"), { className: "canvas" });
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Picture ${index + 1}, not finished`);
  const caption = document.createElement("figcaption");
  box.append(canvas);
  figure.append(box, caption);
  const context = canvas.getContext("2d");

  function clear([rows, columns]) {
    canvas.width = columns * 4; // setting a size empties it
    canvas.height = rows * 4;
  }

  function paint(positions, tokens, [, columns]) {
    if (palette === null) return; // the picture comes all the same
    const patch = context.createImageData(4, 4);
    positions.forEach((position, k) => {
      const rgb = palette.subarray(tokens[k] * 48, tokens[k] * 48 + 48);
      for (let pixel = 0; pixel < 16; pixel++) {
        patch.data.set(rgb.subarray(pixel * 3, pixel * 3 + 3), pixel * 4);
        patch.data[pixel * 4 + 3] = 255;
      }
      context.putImageData(patch, (position % columns) * 4, Math.floor(position / columns) * 4);
    });
  }

  function show({ url, seed }) {
    const picture = new Image();
    picture.alt = `${name ?? "a picture without a class"}, seed ${seed}`;
    picture.onload = () => {
      box.append(picture);
      canvas.setAttribute("aria-hidden", "true");
      requestAnimationFrame(() => requestAnimationFrame(() => picture.classList.add("there")));
    };
    picture.src = url;
    const save = Object.assign(document.createElement("a"), { href: `${url}?format=png`, textContent: "PNG" });
    save.download = `${model.id}-${name ?? "none"}-${seed}.png`;
    caption.replaceChildren(`seed ${seed}`, save);
  }

  clear(model.grid);
  return { figure, clear, paint, show, done: 0 };
}

// ---- hands ---------------------------------------------------------------------------------------------------

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (model && !current && !$("draw").disabled) draw();
});
$("form").addEventListener("input", describe);
$("n").addEventListener("change", () => {
  if (model && !current && !document.querySelector("figure img")) frames(Number($("n").value), null);
});
$("cancel").addEventListener("click", cancel);
$("dice").addEventListener("click", () => {
  $("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
  describe();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") cancel();
});

start();
