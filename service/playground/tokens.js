// Paints tokens on a canvas: each as four by four pixels from the palette.

export const CELL = 4;

export function lay(canvas, [rows, columns]) {
  canvas.width = columns * CELL; // setting the size also clears the canvas
  canvas.height = rows * CELL;
}

export function paint(canvas, palette, positions, tokens, [, columns]) {
  if (palette === null) return; // the finished picture will come all the same
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

export function blank(canvas, positions, [, columns], colour) {
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  for (const position of positions) {
    context.fillRect((position % columns) * CELL, Math.floor(position / columns) * CELL, CELL, CELL);
  }
}

// Draws lines around the tokens that a token mask, rows of 0 and 1, selects.
export function outline(canvas, mask, colour) {
  const [side, line] = [16, 2];
  const redrawn = (row, column) => mask[row]?.[column] === 1;
  canvas.width = mask[0].length * side;
  canvas.height = mask.length * side;
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  mask.forEach((cells, row) =>
    cells.forEach((cell, column) => {
      if (cell !== 1) return;
      const [x, y] = [column * side, row * side];
      if (!redrawn(row - 1, column)) context.fillRect(x, y, side, line);
      if (!redrawn(row + 1, column)) context.fillRect(x, y + side - line, side, line);
      if (!redrawn(row, column - 1)) context.fillRect(x, y, line, side);
      if (!redrawn(row, column + 1)) context.fillRect(x + side - line, y, line, side);
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
