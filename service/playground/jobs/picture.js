// One picture of a job: painted token by token while it is drawn, then finished; with its steps to go back to.

import { api } from "../server/api.js";
import { button, make } from "../ui/dom.js";
import { Timeline } from "./timeline.js";
import { lay, paint, place } from "./tokens.js";

export class Picture {
  // about: { palette: Uint8Array or null, grid, under: { url, width, height, padding } of the picture that the job
  // starts from, or null }. actions: functions edit, fork, save, link and enlarge, some of them null; each gets this
  // picture. loaded: called when the finished picture is there.
  constructor(job, index, { palette, grid, under }, actions, loaded) {
    Object.assign(this, { job, index, palette, grid, under, loaded, there: false });
    this.canvas = make("canvas", { role: "img", "aria-label": `Picture ${index + 1}, not finished yet` });
    this.layer = make("div", { className: "layer" });
    this.box = make("div", { className: "canvas" }, this.layer);
    this.timeline = new Timeline(index, (step) => this.#scrub(step));
    this.caption = make("figcaption");
    this.figure = make("figure", {}, this.box, this.timeline.element, this.caption);
    if (under) {
      this.ground = make("img", { className: "under", alt: "", src: under.url });
      this.box.style.setProperty("--shape", place(this.ground, under, under.padding));
      this.layer.append(this.ground);
    }
    this.layer.append(this.canvas);
    this.#write(actions);
    this.clear();
    this.update();
  }

  get drawn() {
    return this.job.pictures[this.index];
  }

  // Begins again, with what is known of the picture.
  clear() {
    this.grid = this.drawn.grid ?? this.grid;
    if (!this.under) this.box.style.setProperty("--shape", this.grid[1] / this.grid[0]);
    this.#paint(this.drawn.history.length);
    this.timeline.resize(this.drawn.history);
  }

  // New tokens.
  take(positions, tokens) {
    this.timeline.resize(this.drawn.history);
    if (this.palette && !this.timeline.scrubbing) paint(this.canvas, this.palette, positions, tokens, this.grid);
  }

  // The job has changed.
  update() {
    this.#finish();
    // The server forks jobs that are drawn or finished, from a step.
    const ended = this.job.over && this.job.status !== "succeeded";
    if (this.fork) this.fork.hidden = ended || !this.drawn.history.length;
  }

  // Shows the finished picture, if there is one.
  #finish() {
    const { url, seed } = this.drawn;
    if (!url || this.image) return;
    this.image = new Image();
    this.image.alt = `${this.job.name ?? "picture of anything"}, seed ${seed}`;
    this.image.onload = () => this.#show();
    this.image.onerror = () => this.#again();
    this.image.src = url;
    this.label.textContent = `seed ${seed}`;
    const file = new URL(url, document.baseURI);
    file.searchParams.set("format", "png");
    const name = (this.job.name ?? "none").replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 60);
    this.save.href = file;
    this.save.download = `${this.job.told.model}-${name}-${seed}.png`;
    const words = `Save picture ${this.index + 1} as PNG, seed ${seed}`;
    this.save.setAttribute("aria-label", words);
    for (const each of this.caption.querySelectorAll("[hidden]")) each.hidden = false;
  }

  #show() {
    this.there = true;
    this.layer.append(this.image);
    this.canvas.setAttribute("aria-hidden", "true");
    requestAnimationFrame(() => requestAnimationFrame(() => this.image.classList.add("there")));
    this.loaded();
  }

  // The server did not answer, or a key is needed.
  async #again() {
    try {
      await api(this.job.told.urls.self); // opens the key dialog if the session has ended
    } catch (error) {
      if (!error.away) return this.loaded(error);
    }
    setTimeout(() => (this.image.src = this.drawn.url), 2000);
  }

  // Shows the picture after so many of its events; null: as it is now.
  #scrub(count) {
    this.box.classList.toggle("scrubbed", count !== null);
    this.#paint(count ?? this.drawn.history.length);
  }

  #paint(count) {
    lay(this.canvas, this.grid);
    if (!this.palette) return;
    for (const { positions, tokens } of this.drawn.history.slice(0, count)) {
      paint(this.canvas, this.palette, positions, tokens, this.grid);
    }
  }

  // The palette has come.
  colour(palette) {
    this.palette = palette;
    if (!this.timeline.scrubbing) this.#paint(this.drawn.history.length);
  }

  #write({ edit, fork, link, enlarge }) {
    const number = this.index + 1;
    this.label = make("span", { className: "seed" });
    this.save = make("a", { textContent: "PNG", className: "act", hidden: true });
    const act = (text, label, run) => button(text, label, () => run(this), { className: "act", hidden: true });
    const acts = make("span", { className: "acts" });
    if (enlarge) this.box.append(button("⤢", `Enlarge picture ${number}`, () => enlarge(this), { className: "enlarge" }));
    if (this.under) acts.append(this.#comparing(number));
    this.fork = fork && act("Fork", `Fork picture ${number} from the step that is shown`, fork);
    if (fork) acts.append(this.fork);
    if (edit) acts.append(act("Edit", `Edit picture ${number}`, edit));
    if (link) acts.append(act("Link", `Copy a link that draws picture ${number} again`, link));
    acts.append(this.save);
    this.caption.append(acts, this.label);
  }

  // Shows the picture before the job, as long as the button is held.
  #comparing(number) {
    const hold = (on) => this.box.classList.toggle("before", on);
    const made = button("Before", `Hold to see picture ${number} before the change`, null, { className: "act", hidden: true });
    for (const name of ["pointerdown", "keydown"]) made.addEventListener(name, ({ key }) => (!key || key === " " || key === "Enter") && hold(true));
    for (const name of ["pointerup", "pointercancel", "pointerleave", "keyup", "blur"]) made.addEventListener(name, () => hold(false));
    return made;
  }
}
