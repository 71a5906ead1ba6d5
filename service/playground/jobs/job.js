// A job as the page knows it: its state, and for each picture the tokens of each step. Views listen for changes.

import { announce, away, complain, settle } from "../ui/toasts.js";
import { api } from "../server/api.js";
import * as stream from "../server/stream.js";
import { failureOf } from "./words.js";

const AT_ONCE_MS = 250;
const ENDED = ["succeeded", "failed", "canceled"];

export class Job extends EventTarget {
  // told: the job, as the server tells it. about: { before, shared } of a job that this page made: the picture that it
  // started from, and a fork's part of its parent's history. mine: whether this page made it just now.
  constructor(told, { before = null, shared = null, mine = false } = {}) {
    super();
    Object.assign(this, { id: told.id, before, shared, mine, followed: false, attempt: 0 });
    Object.assign(this, { step: 0, steps: null, began: null, pace: null, seconds: null, retryAt: null, usage: null, warnings: [] });
    this.pictures = [];
    this.tell(told);
  }

  // What the server tells of the job, from its list or in full.
  tell(told) {
    const before = this.told?.status;
    this.told = { ...this.told, ...told, status: this.over ? this.told.status : told.status };
    const count = told.request?.n ?? told.n ?? 1;
    while (this.pictures.length < count) this.pictures.push({ history: [], done: 0, url: null, seed: null, grid: null });
    if (told.request) this.#finished(told.images);
    if (told.warnings) this.warnings = told.warnings;
    if (before !== this.told.status) this.#changed();
  }

  get status() {
    return this.told.status;
  }

  get over() {
    return ENDED.includes(this.told?.status);
  }

  // The class or the prompt.
  get name() {
    return this.told.class_name ?? this.told.request?.prompt ?? this.told.prompt ?? null;
  }

  // Whether it ended before anything was drawn.
  get blank() {
    return this.over && this.status !== "succeeded" && this.pictures.every(({ history }) => !history.length);
  }

  // Of its tokens that are drawn, as a share.
  get progress() {
    return this.pictures.reduce((sum, { done }) => sum + done, 0) / this.pictures.length;
  }

  // Until it ends, in seconds; null: unknown. Its own pace, or else the server's estimate.
  get eta() {
    if (this.pace && this.step >= this.pace.step + 2) {
      return ((performance.now() - this.pace.at) / 1000 / (this.step - this.pace.step)) * (this.steps - this.step);
    }
    return this.told.eta_seconds ?? null;
  }

  // The whole job, with its request; the list has less.
  async whole() {
    if (!this.told.request) this.tell(await api(this.told.urls.self));
    return this.told;
  }

  follow() {
    if (this.followed) return;
    this.followed = true;
    stream.follow(this.id, (name, data) => this.#take(name, data));
  }

  async cancel() {
    this.told.canceling = true;
    this.#changed();
    try {
      await api(this.told.urls.cancel, { method: "DELETE" });
    } catch (error) {
      this.told.canceling = false;
      complain(error);
    }
  }

  #take(name, data) {
    if (name === "lost") {
      this.retryAt = Date.now() + data.milliseconds;
      away();
      return this.#changed();
    }
    if (this.retryAt !== null) settle();
    this.retryAt = null;
    this[`_${name}`]?.(data);
  }

  _queued({ position }) {
    if (!this.over) this.told.position ??= position;
    this.#changed();
  }

  _started({ attempt, grid, steps, kept = [] }) {
    if (!this.over) this.told.status = "running";
    Object.assign(this, { attempt, steps, step: 0, began: performance.now(), pace: null });
    this.pictures.forEach((picture, index) => {
      if (!kept.includes(index)) Object.assign(picture, { grid, history: [], done: 0 });
    });
    this.#changed("cleared");
  }

  _tokens({ image_index, step, steps, positions, tokens, n_done, n_total }) {
    const picture = this.pictures[image_index];
    // The first event of a fork holds all shared tokens at once; the parent's history has their order.
    const known = picture.history.length ? [] : (this.shared ?? []);
    const before = new Set(known.flatMap((event) => event.positions));
    const own = [...positions.keys()].filter((k) => !before.has(positions[k]));
    picture.history.push(...known);
    if (own.length) picture.history.push({ step, positions: own.map((k) => positions[k]), tokens: own.map((k) => tokens[k]) });
    picture.done = n_done / n_total;
    Object.assign(this, { step: Math.max(this.step, step), steps });
    // Steps that come at once were drawn before the page followed the job: they tell no pace.
    if (performance.now() - this.began > AT_ONCE_MS) this.pace ??= { at: performance.now(), step: this.step };
    this.dispatchEvent(new CustomEvent("tokens", { detail: { index: image_index, positions, tokens } }));
    this.#changed();
  }

  _completed({ images, usage, timings, warnings = [] }) {
    Object.assign(this, { usage, warnings });
    if (timings) this.seconds = timings.draw_seconds ?? null;
    this.told.status = "succeeded";
    this.#finished(images);
    this.#changed("pictures");
  }

  _failed({ error }) {
    this.told.status = "failed";
    this.told.error = error;
    if (this.mine) complain(failureOf(error));
    this.#changed();
  }

  _canceled() {
    this.told.status = "canceled";
    if (this.mine) announce("Cancelled.");
    this.#changed();
  }

  // Its events can't be read (any more); the job itself may still be known.
  async _gone() {
    try {
      this.tell(await api(this.told.urls.self));
      if (!this.over) return stream.forget(this.id), stream.follow(this.id, (name, data) => this.#take(name, data));
    } catch (error) {
      if (error.away) return;
      this.told.status = "failed";
      this.told.error = { code: error.problem?.code, message: error.message };
      if (this.mine) complain(error);
    }
    this.#changed("pictures");
  }

  #finished(images = []) {
    images.forEach((image, index) => Object.assign(this.pictures[index], { url: image.url, seed: image.seed }));
  }

  #changed(name = "change") {
    this.dispatchEvent(new Event(name));
    if (name !== "change") this.dispatchEvent(new Event("change"));
  }
}
