// A mask that the user paints with a brush, by pointer or by keys. It is stored as strokes, so that each can be undone.

const COLOUR = "rgb(226 30 120)"; // the page shows the canvas half transparent

export class Mask {
  // ring: the element that shows the brush; changed: called after each change of the mask.
  constructor(canvas, ring, changed) {
    Object.assign(this, { canvas, ring, changed, erasing: false, strokes: [], undone: [], stroke: null });
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#lift());
    canvas.addEventListener("pointerleave", () => this.#point(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", ({ key }) => key === " " && this.#lift());
    canvas.addEventListener("blur", () => (this.#lift(), this.#point(null)));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.#point(this.at));
  }

  // Starts an empty mask for a picture of this size in pixels.
  begin(width, height) {
    Object.assign(this.canvas, { width, height });
    Object.assign(this, { strokes: [], undone: [], stroke: null, at: [width / 2, height / 2] });
    this.grow(this.share ?? 0.2);
    this.changed();
  }

  // Sets the brush's size, as a share of the picture's shorter side.
  grow(share) {
    const { width, height } = this.canvas;
    this.share = Math.min(0.6, Math.max(0.02, share));
    this.size = Math.max(1, this.share * Math.min(width, height));
    this.ring.style.width = `${(100 * this.size) / width}%`;
    this.ring.style.height = `${(100 * this.size) / height}%`;
  }

  get empty() {
    return this.strokes.length === 0 || this.strokes.at(-1).cleared === true;
  }

  undo() {
    if (!this.strokes.length) return;
    this.undone.push(this.strokes.pop());
    this.#redraw();
  }

  redo() {
    if (!this.undone.length) return;
    this.strokes.push(this.undone.pop());
    this.#redraw();
  }

  clear() {
    if (!this.empty) this.#add({ cleared: true });
    this.#redraw();
  }

  // A PNG as the API expects it: painted pixels white, the others black.
  png() {
    const { width, height } = this.canvas;
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    const pixels = this.context.getImageData(0, 0, width, height);
    for (let k = 0; k < pixels.data.length; k += 4) {
      pixels.data.fill(pixels.data[k + 3] >= 128 ? 255 : 0, k, k + 3);
      pixels.data[k + 3] = 255;
    }
    copy.getContext("2d").putImageData(pixels, 0, 0);
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }

  #add(stroke) {
    this.strokes.push(stroke);
    this.undone = [];
  }

  #redraw() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const { cleared, points, ...brush } of this.strokes.slice(this.strokes.findLastIndex((s) => s.cleared) + 1)) {
      this.#line(points, brush);
    }
    this.changed();
  }

  #line(points, { size, erasing }) {
    const { context } = this;
    context.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: size, strokeStyle: COLOUR });
    context.beginPath();
    context.moveTo(points[0][0] + 0.01, points[0][1]); // a line without length would paint nothing
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }

  #begin(erasing) {
    this.stroke = { points: [this.at], size: this.size, erasing };
    this.#add(this.stroke);
    this.#line(this.stroke.points, this.stroke);
  }

  #go(point) {
    this.#point(point);
    if (!this.stroke) return;
    this.#line([this.stroke.points.at(-1), point], this.stroke);
    this.stroke.points.push(point);
  }

  #lift() {
    if (this.stroke) this.changed();
    this.stroke = null;
  }

  #point(point) {
    this.ring.hidden = point === null;
    if (point === null) return;
    this.at = point;
    this.ring.style.left = `${(100 * point[0]) / this.canvas.width}%`;
    this.ring.style.top = `${(100 * point[1]) / this.canvas.height}%`;
  }

  #where({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.canvas;
    return [((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height];
  }

  #press(event) {
    if (event.button !== 0 && event.button !== 2) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#point(this.#where(event));
    this.#begin(this.erasing || event.button === 2);
  }

  #drag(event) {
    const seen = this.stroke ? event.getCoalescedEvents?.() : null;
    for (const each of seen?.length ? seen : [event]) this.#go(this.#where(each));
  }

  #key(event) {
    const { key, shiftKey, repeat } = event;
    const step = shiftKey ? 1 : Math.max(1, this.size / 2);
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] ?? [0, 0];
    const within = (value, most) => Math.min(most, Math.max(0, value));
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (dx || dy) {
      const { width, height } = this.canvas;
      this.#go([within(this.at[0] + dx * step, width), within(this.at[1] + dy * step, height)]);
    } else if (key === " ") {
      if (!repeat && !this.stroke) {
        this.#point(this.at);
        this.#begin(this.erasing);
      }
    } else return;
    event.preventDefault();
  }
}
