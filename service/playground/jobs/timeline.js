// The steps of a picture as a slider: it follows the pointer, and keeps the step that the user chooses.

import { make } from "../ui/dom.js";

export class Timeline {
  // show: called with the number of events to show; null: the picture as it is now.
  constructor(index, show) {
    Object.assign(this, { history: [], show, chosen: null });
    this.input = make("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": `Step of picture ${index + 1}` });
    this.words = make("output");
    this.element = make("div", { className: "timeline", hidden: true }, this.input, this.words);
    this.input.addEventListener("input", () => this.#choose(Number(this.input.value)));
    this.input.addEventListener("pointermove", (event) => event.pointerType === "mouse" && !event.buttons && this.#peek(this.#under(event)));
    this.input.addEventListener("pointerleave", () => this.#peek(null));
    this.peeked = null;
  }

  get scrubbing() {
    return this.#shown !== null;
  }

  get #shown() {
    return this.peeked ?? this.chosen;
  }

  // The step that is shown; null: the picture as it is now.
  get step() {
    const shown = this.#shown;
    return shown === null ? null : (this.history[shown - 1]?.step ?? 0);
  }

  resize(history) {
    const atEnd = this.chosen === null;
    this.history = history;
    if (!history.length) this.chosen = null;
    this.input.max = history.length;
    if (atEnd || this.chosen === null) this.input.value = history.length;
    this.element.hidden = history.length < 2;
    this.#say();
  }

  #choose(value) {
    this.peeked = null;
    this.chosen = value >= this.history.length ? null : value;
    this.#draw();
  }

  #peek(value) {
    if (this.peeked === value) return;
    this.peeked = value;
    this.#draw();
  }

  // The event under the pointer. A slider's thumb is 16 pixels wide.
  #under({ offsetX }) {
    const share = (offsetX - 8) / (this.input.clientWidth - 16);
    const count = Math.round(Math.min(1, Math.max(0, share)) * this.history.length);
    return count >= this.history.length ? null : count;
  }

  #draw() {
    this.show(this.#shown);
    this.#say();
  }

  #say() {
    const step = this.step ?? this.history.at(-1)?.step ?? 0;
    this.words.value = `step ${step}`;
    this.input.setAttribute("aria-valuetext", `step ${step}`);
  }
}
