// Paints tokens on a canvas: each as four by four pixels from the palette.

export const CELL = 4;

export function lay(canvas, [rows, columns]) {
  canvas.width = columns * CELL; // setting the size also clears the canvas
  canvas.height = rows * CELL;
}

export function paint(canvas, palette, positions, tokens, [, columns]) {
  const context = canvas.getContext("2d");
  const patch = context.createImageData(CELL, CELL);
  positions.forEach((position, k) => {
    const rgb = palette.subarray(tokens[k] * 48, tokens[k] * 48 + 48);
    for (let pixel = 0; pixel < CELL * CELL; pixel++) {
      patch.data.set(rgb.subarray(pixel * 3, pixel * 3 + 3), pixel * 4);
      patch.data[pixel * 4 + 3] = 255;
    }
    context.putImageData(patch, (position % columns) * CELL, Math.floor(position / columns) * CELL);
  });
}

// Draws lines around the cells of a boolean grid, rows by columns, that are true.
export function outline(canvas, cells, colour) {
  const [side, line] = [16, 2];
  const chosen = (row, column) => Boolean(cells[row]?.[column]);
  canvas.width = cells[0].length * side;
  canvas.height = cells.length * side;
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  cells.forEach((row, y) =>
    row.forEach((cell, x) => {
      if (!cell) return;
      if (!chosen(y - 1, x)) context.fillRect(x * side, y * side, side, line);
      if (!chosen(y + 1, x)) context.fillRect(x * side, (y + 1) * side - line, side, line);
      if (!chosen(y, x - 1)) context.fillRect(x * side, y * side, line, side);
      if (!chosen(y, x + 1)) context.fillRect((x + 1) * side - line, y * side, line, side);
    }),
  );
}

// Places a picture among borders, which are given in its pixels. Returns width / height of the whole.
export function place(element, { width, height }, { left = 0, right = 0, up = 0, down = 0 } = {}) {
  const [across, high] = [width + left + right, height + up + down];
  const percent = { left: left / across, top: up / high, width: width / across, height: height / high };
  for (const [name, share] of Object.entries(percent)) element.style[name] = `${100 * share}%`;
  return across / high;
}
