// Zooms and moves the layer in a box, by wheel, buttons and fingers.

const MOST = 16;

export class Zoom {
  // box: clips its child `.layer`. wheel: the wheel alone zooms, not only with Ctrl. drag: one pointer moves the layer.
  constructor(box, { wheel = false, drag = false } = {}) {
    Object.assign(this, { box, wheel, drag, scale: 1, x: 0, y: 0, pointers: new Map(), changed: () => {} });
    this.stop = new AbortController();
    const { signal } = this.stop;
    const on = (name, run, options) => box.addEventListener(name, run, { signal, ...options });
    on("wheel", (event) => this.#turn(event), { passive: false });
    on("pointerdown", (event) => this.#press(event), { capture: true });
    on("pointermove", (event) => this.#move(event), { capture: true });
    for (const name of ["pointerup", "pointercancel"]) on(name, (event) => this.pointers.delete(event.pointerId), { capture: true });
    on("dblclick", () => this.drag && this.reset());
    box.classList.add("zooms");
    this.#apply();
  }

  close() {
    this.stop.abort();
    this.reset();
    this.box.classList.remove("zooms", "drags");
  }

  reset() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.#apply();
  }

  // Zooms by a factor around a point of the box, in shares of it.
  by(factor, at = [0.5, 0.5]) {
    const before = this.scale;
    this.scale = Math.min(MOST, Math.max(1, before * factor));
    const { width, height } = this.box.getBoundingClientRect();
    const share = 1 - this.scale / before;
    this.x += (at[0] * width - this.x) * share;
    this.y += (at[1] * height - this.y) * share;
    this.#apply();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#apply();
  }

  // Whether two fingers are on the box: they zoom and move, whatever one finger does.
  get pinching() {
    return this.pointers.size > 1;
  }

  #turn(event) {
    if (!event.ctrlKey && !event.metaKey && !this.wheel) return;
    event.preventDefault();
    this.by(Math.exp(-event.deltaY / 300), this.#share(event));
  }

  #press(event) {
    this.pointers.set(event.pointerId, event);
    if (!this.drag || this.scale === 1) return;
    try {
      this.box.setPointerCapture(event.pointerId);
    } catch {
      // The pointer is gone already.
    }
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.pointers.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (others.length === 1) {
      const [other] = others;
      const apart = (point) => Math.hypot(point.clientX - other.clientX, point.clientY - other.clientY) || 1;
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.pan((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
      if (this.scale === 1) window.scrollBy(0, (before.clientY - event.clientY) / 2);
      this.by(apart(event) / apart(before), this.#share(middle));
    } else if (this.drag && !others.length && this.scale > 1) {
      this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    }
  }

  #share({ clientX, clientY }) {
    const { left, top, width, height } = this.box.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  }

  // Keeps the box covered.
  #apply() {
    const { clientWidth: width, clientHeight: height } = this.box;
    this.x = Math.min(0, Math.max(width * (1 - this.scale), this.x));
    this.y = Math.min(0, Math.max(height * (1 - this.scale), this.y));
    const transform = this.scale === 1 ? "" : `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.box.querySelector(".layer").style.transform = transform;
    this.box.classList.toggle("drags", this.drag && this.scale > 1);
    this.changed(this.scale);
  }
}
