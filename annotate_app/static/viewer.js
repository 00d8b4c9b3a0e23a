// The viewer: raw 8/16-bit pixels on a canvas through a look-up table; zoom, pan, window/level, mask outlines.

export const STRUCTURE_STYLES = [
  { colour: '#56b4e9', dash: [] },
  { colour: '#e69f00', dash: [7, 4] },
  { colour: '#f0e442', dash: [2, 3] },
  { colour: '#cc79a7', dash: [9, 3, 2, 3] },
  { colour: '#40c9a2', dash: [12, 4] },
  { colour: '#ff8a65', dash: [4, 2, 1, 2] },
];

export function decodePixels(buffer, { width, height, bits }) {
  const data = bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer);
  if (data.length !== width * height) throw new Error('image of another size');
  return { width, height, bits, data };
}

// Borders of each structure along pixel edges, as Path2D in mask pixels.
export function outlines(buffer, { width, height, structures }) {
  const field = new Uint16Array(buffer);
  return structures.map((name, bit) => {
    const path = new Path2D();
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && ((field[y * width + x] >> bit) & 1) === 1;
    for (let y = 0; y <= height; y += 1) {
      for (let x = 0, start = -1; x <= width; x += 1) {
        const edge = x < width && inside(x, y) !== inside(x, y - 1);
        if (edge && start < 0) start = x;
        if (!edge && start >= 0) {
          path.moveTo(start, y);
          path.lineTo(x, y);
          start = -1;
        }
      }
    }
    for (let x = 0; x <= width; x += 1) {
      for (let y = 0, start = -1; y <= height; y += 1) {
        const edge = y < height && inside(x, y) !== inside(x - 1, y);
        if (edge && start < 0) start = y;
        if (!edge && start >= 0) {
          path.moveTo(x, start);
          path.lineTo(x, y);
          start = -1;
        }
      }
    }
    return { name, path, width, height };
  });
}

export class View {
  constructor() {
    this.reset();
  }

  // zoom 1 fits the panel; pan is in parts of the image; centre and width of the window in parts of the full range.
  reset() {
    Object.assign(this, { zoom: 1, panX: 0, panY: 0, centre: 0.5, width: 1, invert: false });
    return this;
  }

  copy() {
    return Object.assign(new View(), this);
  }
}

// Stored value to opaque grey, linear inside the window and clipped outside: every one of 256 or 65536 values has its
// own entry, so a narrow window shows the full depth of a 16-bit image.
function levels({ centre, width, invert }, bits, key) {
  if (levels.key === key) return levels.table;
  const top = bits === 16 ? 65535 : 255;
  const table = new Uint32Array(top + 1);
  const low = (centre - width / 2) * top;
  const scale = 255 / (width * top);
  for (let value = 0; value <= top; value += 1) {
    const level = Math.max(0, Math.min(255, Math.round((value - low) * scale)));
    const grey = invert ? 255 - level : level;
    table[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  Object.assign(levels, { key, table }); // the four linked images ask for the same one
  return table;
}

// The image under a view's window, on a canvas of its own that stays with the pixels until the window changes.
export function shaded(pixels, view) {
  const key = `${view.centre}/${view.width}/${view.invert}/${pixels.bits}`;
  if (pixels.canvas && pixels.shades === key) return pixels.canvas;
  pixels.canvas ??= Object.assign(document.createElement('canvas'), { width: pixels.width, height: pixels.height });
  pixels.shades = key;
  const table = levels(view, pixels.bits, key);
  const image = new ImageData(pixels.width, pixels.height);
  const target = new Uint32Array(image.data.buffer);
  for (let index = 0; index < target.length; index += 1) target[index] = table[pixels.data[index]];
  pixels.canvas.getContext('2d').putImageData(image, 0, 0);
  return pixels.canvas;
}

// Give the memory of the picture back; the pixels stay.
export function release(pixels) {
  pixels.canvas = null;
}

export class Panel {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.view = new View();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(pixels) {
    this.pixels = pixels;
    this.draw();
  }

  // Scale (device pixels per image pixel) and top-left corner of the image on the canvas.
  placement() {
    const { width, height } = this.canvas;
    const fit = Math.min(width / this.pixels.width, height / this.pixels.height);
    const scale = fit * this.view.zoom;
    const drawn = { width: this.pixels.width * scale, height: this.pixels.height * scale };
    const left = (width - drawn.width) / 2 + this.view.panX * drawn.width;
    const top = (height - drawn.height) / 2 + this.view.panY * drawn.height;
    return { scale, left, top, ...{ drawnWidth: drawn.width, drawnHeight: drawn.height } };
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  paint() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const { context } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = '#000';
    context.fillRect(0, 0, width, height);
    if (!this.pixels) return;
    const picture = shaded(this.pixels, this.view);
    const { scale, left, top } = this.placement();
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = 'high';
    context.setTransform(scale, 0, 0, scale, left, top);
    context.drawImage(picture, 0, 0);
    if (this.outlineOpacity > 0) this.paintOutlines(scale, left, top, ratio);
  }

  // All dark borders first, then the lines: so light lines stand out from bright organs, and none hides another.
  paintOutlines(scale, left, top, ratio) {
    const { context } = this;
    const thick = Math.max(1, this.canvas.height / (ratio * 420)) * ratio;
    context.globalAlpha = this.outlineOpacity;
    context.lineCap = 'butt';
    for (const border of [true, false]) {
      (this.outlines || []).forEach(({ path, width, height }, index) => {
        const style = STRUCTURE_STYLES[index % STRUCTURE_STYLES.length];
        const x = (scale * this.pixels.width) / width;
        const y = (scale * this.pixels.height) / height;
        context.setTransform(x, 0, 0, y, left, top);
        context.lineWidth = ((border ? 3 : 1.6) * thick) / x;
        context.setLineDash(style.dash.map((part) => (part * thick) / x));
        context.strokeStyle = border ? 'rgb(0 0 0 / 55%)' : style.colour;
        context.stroke(path);
      });
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
  }

  // Zoom by `factor` so that the point under (clientX, clientY) stays where it is.
  zoomAt(factor, clientX, clientY) {
    if (!this.pixels) return;
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / Math.max(1, box.width);
    const x = clientX === undefined ? this.canvas.width / 2 : (clientX - box.left) * ratio;
    const y = clientY === undefined ? this.canvas.height / 2 : (clientY - box.top) * ratio;
    const before = this.placement();
    const u = (x - before.left) / before.drawnWidth;
    const v = (y - before.top) / before.drawnHeight;
    const { view } = this;
    view.zoom = Math.max(1, Math.min(16, view.zoom * factor));
    const after = this.placement();
    view.panX += (x - (after.left + u * after.drawnWidth)) / after.drawnWidth;
    view.panY += (y - (after.top + v * after.drawnHeight)) / after.drawnHeight;
    if (view.zoom === 1) view.panX = view.panY = 0;
    this.keepInside();
  }

  pan(dx, dy) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / Math.max(1, box.width);
    const { drawnWidth, drawnHeight } = this.placement();
    this.view.panX += (dx * ratio) / drawnWidth;
    this.view.panY += (dy * ratio) / drawnHeight;
    this.keepInside();
  }

  keepInside() {
    const { view } = this;
    const limit = Math.max(0, 0.5 - 0.1 / view.zoom);
    view.panX = Math.max(-limit, Math.min(limit, view.panX));
    view.panY = Math.max(-limit, Math.min(limit, view.panY));
  }

  window(dx, dy) {
    const { view } = this;
    view.width = Math.max(0.02, Math.min(2, view.width + dx / 400));
    view.centre = Math.max(0, Math.min(1, view.centre + dy / 400));
  }
}
