// The pictures of a job: painted token by token while they are drawn, then the finished pictures.

import { api } from "./api.js";
import { lay, paint, place } from "./tokens.js";

const $ = (id) => document.getElementById(id);

// n empty frames. about: { name, model, grid, under, shared, edit }; see frame.
export function frames(n, about) {
  const pictures = Array.from({ length: n }, (_, index) => frame(index, about));
  $("pictures").className = n === 1 ? "one" : n <= 4 ? "few" : "";
  $("pictures").replaceChildren(...pictures.map(({ figure }) => figure));
  return pictures;
}

// name: of the class, or the prompt. under: { url, width, height, padding } of the picture that the task starts from. shared: a fork's
// part of its parent's history. edit: called with a finished picture when the user presses Edit; null: no such button.
function frame(index, { name, model, grid, under = null, shared = [], edit }) {
  const figure = document.createElement("figure");
  const box = Object.assign(document.createElement("div"), { className: "canvas" });
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Picture ${index + 1}, not finished yet`);
  const caption = document.createElement("figcaption");
  if (under) {
    const ground = Object.assign(new Image(), { className: "under", alt: "", src: under.url });
    box.style.setProperty("--shape", place(ground, under, under.padding));
    box.append(ground);
  }
  box.append(canvas);
  figure.append(box, caption);
  const picture = { figure, done: 0, finished: false, grid, history: [], clear, take, show };

  function clear(grid) {
    Object.assign(picture, { grid, done: 0, history: [] });
    if (!under) box.style.setProperty("--shape", grid[1] / grid[0]);
    lay(canvas, grid);
  }

  function take({ step, positions, tokens, n_done, n_total }) {
    paint(canvas, model.palette, positions, tokens, picture.grid);
    picture.done = n_done / n_total;
    // The first event of a fork holds all shared tokens at once; the parent's history has their order.
    const known = picture.history.length ? [] : shared;
    const before = new Set(known.flatMap((event) => event.positions));
    const own = [...positions.keys()].filter((k) => !before.has(positions[k]));
    picture.history.push(...known, { step, positions: own.map((k) => positions[k]), tokens: own.map((k) => tokens[k]) });
  }

  function show({ url, seed }, { job, usage }) {
    picture.finished = true;
    const image = new Image();
    image.alt = `${name ?? "picture of anything"}, seed ${seed}`;
    image.onload = () => {
      box.append(image);
      canvas.setAttribute("aria-hidden", "true");
      requestAnimationFrame(() => requestAnimationFrame(() => image.classList.add("there")));
    };
    image.onerror = async () => {
      image.onerror = null;
      await api(job.urls.self); // opens the key dialog if the session has ended
      image.src = url;
    };
    image.src = url;
    const file = new URL(url, document.baseURI);
    file.searchParams.set("format", "png");
    const save = Object.assign(document.createElement("a"), { href: file, textContent: "PNG" });
    save.download = `${model.id}-${(name ?? "none").replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 60)}-${seed}.png`;
    const links = Object.assign(document.createElement("span"), { className: "links" });
    if (edit) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Edit", className: "link" });
      button.setAttribute("aria-label", `Edit picture ${index + 1}`);
      const made = { url, name: image.alt, job: job.id, image: index, model, steps: usage?.steps };
      button.onclick = () => edit({ ...made, grid: picture.grid, history: picture.history });
      links.append(button);
    }
    links.append(save);
    caption.replaceChildren(`seed ${seed}`, links);
  }

  clear(grid);
  return picture;
}
