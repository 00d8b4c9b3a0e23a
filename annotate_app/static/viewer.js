// The viewer: raw 8/16-bit pixels on a canvas through a look-up table; zoom, pan, window/level, mask outlines.

export const STRUCTURE_STYLES = [
  { colour: '#56b4e9', dash: [] },
  { colour: '#e69f00', dash: [7, 4] },
  { colour: '#f0e442', dash: [2, 3] },
  { colour: '#cc79a7', dash: [9, 3, 2, 3] },
  { colour: '#40c9a2', dash: [12, 4] },
  { colour: '#ff8a65', dash: [4, 2, 1, 2] },
];

/** @import { Geometry, Mask, Outline, Pixels } from './types' */

/** Raw pixels of the server, row by row. @param {ArrayBuffer} buffer @param {Geometry} geometry @returns {Pixels} */
export function decodePixels(buffer, { width, height, bits }) {
  const data = bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer);
  if (data.length !== width * height) throw new Error('image of another size');
  return { width, height, bits, data };
}

/**
 * Borders of each structure along pixel edges, as Path2D in mask pixels.
 * @param {ArrayBuffer} buffer 16 bits per pixel, one for each structure
 * @param {Mask} mask
 * @returns {Outline[]}
 */
export function outlinesOf(buffer, { width, height, structures }) {
  const field = new Uint16Array(buffer);
  return structures.map((_, bit) => {
    const path = new Path2D();
    const inside = (/** @type {number} */ x, /** @type {number} */ y) => x >= 0 && y >= 0 && x < width && y < height && ((field[y * width + x] >> bit) & 1) === 1;
    edges(path, width, height, inside, (x, y) => [x, y]);
    edges(path, height, width, (y, x) => inside(x, y), (y, x) => [x, y]);
    return { path, width, height };
  });
}

/**
 * Edges between a row of pixels and the one before, as one line for neighbours along the row.
 * @param {Path2D} path the lines are added to it
 * @param {number} length of a row
 * @param {number} n rows
 * @param {(along: number, row: number) => boolean} inside
 * @param {(along: number, row: number) => [number, number]} point x and y
 */
function edges(path, length, n, inside, point) {
  for (let row = 0; row <= n; row += 1) {
    for (let along = 0, start = -1; along <= length; along += 1) {
      const edge = along < length && inside(along, row) !== inside(along, row - 1);
      if (edge && start < 0) start = along;
      if (edge || start < 0) continue;
      path.moveTo(...point(start, row));
      path.lineTo(...point(along, row));
      start = -1;
    }
  }
}

/** How an image is looked at. */
export class View {
  zoom = 1; // 1 fits the panel
  panX = 0; // in parts of the image
  panY = 0;
  centre = 0.5; // of the window, in parts of the full range, as is its width
  width = 1;
  invert = false;

  reset() {
    Object.assign(this, new View());
  }

  copy() {
    return Object.assign(new View(), this);
  }
}

const shared = { key: '', table: new Uint32Array(0) }; // the four linked images need the same table

/**
 * Stored value to opaque grey (ABGR), linear inside the window and clipped outside: every one of 256 or 65536 values has
 * its own entry, so a narrow window shows the full depth of a 16-bit image.
 * @param {View} view
 * @param {8 | 16} bits
 * @param {string} key
 */
function levels({ centre, width, invert }, bits, key) {
  if (shared.key === key) return shared.table;
  const top = bits === 16 ? 65535 : 255;
  const table = new Uint32Array(top + 1);
  const low = (centre - width / 2) * top;
  const scale = 255 / (width * top);
  for (let value = 0; value <= top; value += 1) {
    const level = Math.max(0, Math.min(255, Math.round((value - low) * scale)));
    const grey = invert ? 255 - level : level;
    table[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  Object.assign(shared, { key, table });
  return table;
}

/** @param {HTMLCanvasElement} canvas */
const context2d = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));

/** The image under a view's window, on a canvas that is kept with the pixels until the window changes. @param {Pixels} pixels @param {View} view */
export function shaded(pixels, view) {
  const key = `${view.centre}/${view.width}/${view.invert}/${pixels.bits}`;
  if (pixels.canvas && pixels.shades === key) return pixels.canvas;
  const canvas = pixels.canvas ?? Object.assign(document.createElement('canvas'), { width: pixels.width, height: pixels.height });
  const table = levels(view, pixels.bits, key);
  const image = new ImageData(pixels.width, pixels.height);
  const target = new Uint32Array(image.data.buffer);
  for (let index = 0; index < target.length; index += 1) target[index] = table[pixels.data[index]];
  context2d(canvas).putImageData(image, 0, 0);
  Object.assign(pixels, { canvas, shades: key });
  return canvas;
}

/** A canvas that shows an image under a view. */
export class Panel {
  /** @type {Pixels | null} */
  pixels = null;
  /** @type {Outline[]} */
  outlines = [];
  outlineOpacity = 0;
  frame = 0; // the animation frame that will paint; 0 for none
  view = new View();

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = context2d(canvas);
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Scale (device pixels per image pixel), top-left corner and size of the image on the canvas. @param {Pixels} pixels */
  placement(pixels) {
    const { canvas, view } = this;
    const scale = Math.min(canvas.width / pixels.width, canvas.height / pixels.height) * view.zoom;
    const [width, height] = [pixels.width * scale, pixels.height * scale];
    return { scale, width, height, left: (canvas.width - width) / 2 + view.panX * width, top: (canvas.height - height) / 2 + view.panY * height };
  }

  /** Device pixels per CSS pixel of the canvas, and its box in CSS pixels. */
  extent() {
    const box = this.canvas.getBoundingClientRect();
    return { box, ratio: this.canvas.width / Math.max(1, box.width) };
  }

  /** Paint with the next frame. */
  draw() {
    this.frame ||= requestAnimationFrame(() => {
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
    const { scale, left, top } = this.placement(this.pixels);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = 'high';
    context.setTransform(scale, 0, 0, scale, left, top);
    context.drawImage(picture, 0, 0);
    if (this.outlineOpacity > 0) this.paintOutlines(this.pixels);
  }

  /** All dark borders first, then the lines: so light lines differ from bright organs, and none hides another. @param {Pixels} pixels */
  paintOutlines(pixels) {
    const { context } = this;
    const { scale, left, top } = this.placement(pixels);
    const thick = Math.max(window.devicePixelRatio || 1, this.canvas.height / 420);
    context.globalAlpha = this.outlineOpacity;
    context.lineCap = 'butt';
    for (const border of [true, false]) {
      this.outlines.forEach(({ path, width, height }, index) => {
        const style = STRUCTURE_STYLES[index % STRUCTURE_STYLES.length];
        const x = (scale * pixels.width) / width;
        const y = (scale * pixels.height) / height;
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

  /** Zoom so that the point under `at`, the middle by default, stays where it is. @param {number} factor @param {{clientX: number, clientY: number}} [at] CSS pixels */
  zoomAt(factor, at) {
    const { view, pixels, canvas } = this;
    if (!pixels) return;
    const { box, ratio } = this.extent();
    const x = at ? (at.clientX - box.left) * ratio : canvas.width / 2;
    const y = at ? (at.clientY - box.top) * ratio : canvas.height / 2;
    const before = this.placement(pixels);
    view.zoom = Math.max(1, Math.min(16, view.zoom * factor));
    const after = this.placement(pixels);
    view.panX += (x - after.left) / after.width - (x - before.left) / before.width;
    view.panY += (y - after.top) / after.height - (y - before.top) / before.height;
    if (view.zoom === 1) view.panX = view.panY = 0;
    this.keepInside();
  }

  /** @param {number} dx @param {number} dy CSS pixels */
  pan(dx, dy) {
    if (!this.pixels) return;
    const { ratio } = this.extent();
    const { width, height } = this.placement(this.pixels);
    this.view.panX += (dx * ratio) / width;
    this.view.panY += (dy * ratio) / height;
    this.keepInside();
  }

  keepInside() {
    const { view } = this;
    const limit = Math.max(0, 0.5 - 0.1 / view.zoom);
    view.panX = Math.max(-limit, Math.min(limit, view.panX));
    view.panY = Math.max(-limit, Math.min(limit, view.panY));
  }

  /** @param {number} dx wider @param {number} dy brighter; 400 for the full range */
  window(dx, dy) {
    const { view } = this;
    view.width = Math.max(0.02, Math.min(2, view.width + dx / 400));
    view.centre = Math.max(0, Math.min(1, view.centre + dy / 400));
  }
}
