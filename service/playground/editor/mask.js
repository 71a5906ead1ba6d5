// A mask that the user paints, by pointer or by keys. It is stored as strokes, so that each can be undone.

const COLOUR = "rgb(226 30 120)"; // the page shows the canvas half transparent

export class Mask {
  // ring: the element that shows the brush; zoom: of the board; changed: called after each change of the mask.
  constructor(canvas, ring, zoom, changed) {
    Object.assign(this, { canvas, ring, zoom, changed, tool: "brush", strokes: [], undone: [], stroke: null });
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
    return this.strokes.length === 0 || this.strokes.at(-1).kind === "cleared";
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
    if (!this.empty) this.#add({ kind: "cleared" });
    this.#redraw();
  }

  invert() {
    this.#add({ kind: "inverted" });
    this.#redraw();
  }

  // Takes a picture as the mask: its white part is painted.
  load(image) {
    const { width, height } = this.canvas;
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height);
    const [red, green, blue] = COLOUR.match(/\d+/g);
    for (let k = 0; k < pixels.data.length; k += 4) {
      const [r, g, b, a] = pixels.data.subarray(k, k + 4);
      pixels.data.set([red, green, blue, a >= 128 && 0.299 * r + 0.587 * g + 0.114 * b >= 128 ? 255 : 0], k);
    }
    context.putImageData(pixels, 0, 0);
    this.#add({ kind: "cleared" });
    this.#add({ kind: "loaded", picture: copy });
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

  // The cells of a grid that painted pixels touch: rows of booleans, as the server will choose them.
  cells([rows, columns]) {
    const { width, height } = this.canvas;
    const { data } = this.context.getImageData(0, 0, width, height);
    const cells = Array.from({ length: rows }, () => new Array(columns).fill(false));
    for (let y = 0; y < height; y++) {
      const [top, bottom] = [Math.floor((y * rows) / height), Math.ceil(((y + 1) * rows) / height)];
      for (let x = 0; x < width; x++) {
        if (data[4 * (y * width + x) + 3] < 128) continue;
        const [left, right] = [Math.floor((x * columns) / width), Math.ceil(((x + 1) * columns) / width)];
        for (let row = top; row < bottom; row++) cells[row].fill(true, left, right);
      }
    }
    return cells;
  }

  #add(stroke) {
    this.strokes.push(stroke);
    this.undone = [];
  }

  #redraw() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const stroke of this.strokes.slice(this.strokes.findLastIndex(({ kind }) => kind === "cleared") + 1)) this.#draw(stroke);
    this.changed();
  }

  #draw({ kind, points, size, erasing, picture }) {
    const { context } = this;
    const { width, height } = this.canvas;
    Object.assign(context, { globalCompositeOperation: erasing ? "destination-out" : "source-over", fillStyle: COLOUR, strokeStyle: COLOUR });
    if (kind === "inverted") {
      context.globalCompositeOperation = "xor";
      context.fillRect(0, 0, width, height);
    } else if (kind === "loaded") {
      context.drawImage(picture, 0, 0);
    } else if (kind === "rectangle") {
      const [[x, y], [right, bottom]] = [points[0], points.at(-1)].map((point) => point.map(Math.round));
      context.fillRect(Math.min(x, right), Math.min(y, bottom), Math.abs(right - x), Math.abs(bottom - y));
    } else {
      Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: size });
      context.beginPath();
      context.moveTo(points[0][0] + 0.01, points[0][1]); // a line without length would paint nothing
      for (const point of points) context.lineTo(...point);
      context.stroke();
    }
  }

  #begin(erasing) {
    const kind = this.tool === "rectangle" && !erasing ? "rectangle" : "line";
    this.stroke = { kind, points: [this.at], size: this.size, erasing };
    this.#add(this.stroke);
    this.#draw(this.stroke);
  }

  #go(point) {
    this.#point(point);
    const { stroke } = this;
    if (!stroke) return;
    stroke.points.push(point);
    if (stroke.kind === "rectangle") this.#redraw();
    else this.#draw({ ...stroke, points: stroke.points.slice(-2) });
  }

  // Drawn again as one line: its parts overlap, and their soft edges add up.
  #lift() {
    if (!this.stroke) return;
    this.stroke = null;
    this.#redraw();
  }

  #point(point) {
    this.ring.hidden = point === null || this.tool === "hand" || this.tool === "rectangle";
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
    if (this.zoom.pinching) return this.#giveUp();
    if (this.tool === "hand" || (event.button !== 0 && event.button !== 2)) return;
    try {
      this.canvas.setPointerCapture(event.pointerId);
    } catch {
      // The pointer is gone already.
    }
    this.#point(this.#where(event));
    this.#begin(this.tool === "eraser" || event.button === 2);
  }

  // A second finger came: the first one did not mean to paint.
  #giveUp() {
    if (!this.stroke) return;
    this.strokes.pop();
    this.stroke = null;
    this.#redraw();
  }

  #drag(event) {
    if (this.zoom.pinching) return;
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
        this.#begin(this.tool === "eraser");
      }
    } else return;
    event.preventDefault();
  }
}
