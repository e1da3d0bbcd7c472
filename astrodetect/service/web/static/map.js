// Map: points on a canvas, redrawn only after a change. Markers and groups are those of the legend.
import { drawDensity, forget, repaint } from "./density.js";
import { announce, errorMessage } from "./page.js";

const POINT_BYTES = 15, GRID_STEPS = 65535; // bytes of a point; steps of a coordinate
const MARGIN = 24, HIT_RADIUS = 14, DRAG_THRESHOLD = 6, PAN_STEP = 60, MAX_SCALE = 64, HOVER_MS = 80; // lengths in pixels
const PICTURE = 36; // the side of an image of a map of few points
const find = (id) => document.getElementById(id);
const canvas = find("map-canvas"), under = find("map-density"), tooltip = find("tooltip"), tooltipContent = find("tooltip-content"), legends = find("legends");
const context = canvas.getContext("2d");
const choices = [...document.querySelectorAll("[data-by]")];
let ids = [], xy = [], groupOf = [], ranks = null, total = 0, first = null, pointed = "", pictures = [], stamp = "";
let by = choices.findIndex((choice) => choice.hasAttribute("aria-current")), hidden = [], sprites = null, buffer = null;
let width = 0, height = 0, density = 1, scale = 1, left = MARGIN, top = MARGIN, selected = -1, frame = 0, hoverTimer = 0;

const clamp = (value, low, high) => Math.max(low, Math.min(value, high));
const redraw = () => { frame ||= requestAnimationFrame(draw); };
const scaleX = () => scale * (width - 2 * MARGIN) / GRID_STEPS, scaleY = () => scale * (height - 2 * MARGIN) / GRID_STEPS;
const position = (i) => [left + scaleX() * xy[2 * i], top + scaleY() * xy[2 * i + 1]];
const isHidden = (i) => hidden[by][groupOf[by * ids.length + i]];

// Drawing: copying the pixels of a sprite takes a fiftieth of the time of drawImage
const createSprite = (path, size, background) => {
  const half = Math.ceil(6 * size), side = 2 * half;
  const pen = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  const read = () => pen.getImageData(0, 0, side, side).data.buffer, shape = new Path2D(path.getAttribute("d"));
  pen.setTransform(size, 0, 0, size, half, half);
  Object.assign(pen, { fillStyle: getComputedStyle(path).fill, strokeStyle: background, lineWidth: 0.7 });
  pen.fill(shape);
  pen.stroke(shape);
  const coverage = new Uint8Array(read());
  Object.assign(pen, { globalCompositeOperation: "destination-over", fillStyle: background });
  pen.fillRect(-half, -half, side, side);
  const colours = new Uint32Array(read()), covered = [...colours.keys()].filter((j) => coverage[4 * j + 3] > 96);
  const offsets = covered.map((j) => (j % side) - half + (Math.floor(j / side) - half) * canvas.width);
  return { half, offsets: Int32Array.from(offsets), colours: Uint32Array.from(covered, (j) => colours[j]) };
};
const currentSprites = () => {
  const crowding = ids.length > 8000 ? 0.62 : ids.length > 1500 ? 0.8 : 1.05;
  const size = density * crowding * (1 + 0.2 * Math.round(Math.log2(scale)));
  if (sprites?.size === size) return sprites.list;
  const background = getComputedStyle(under).backgroundColor, paths = legends.children[by].querySelectorAll("path");
  sprites = { size, list: Array.from(paths, (path) => createSprite(path, size, background)) };
  return sprites.list;
};
const drawPictures = () => { // the highest novelty on top, each with the marker of its group
  const paths = Array.from(legends.children[by].querySelectorAll("path"), (path) => [new Path2D(path.getAttribute("d")), getComputedStyle(path).fill]);
  const side = PICTURE * (1 + 0.2 * Math.log2(scale));
  context.strokeStyle = getComputedStyle(under).backgroundColor;
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  for (let i = ids.length - 1; i >= 0; i -= 1) {
    if (isHidden(i)) continue;
    const [x, y] = position(i), [shape, fill] = paths[groupOf[by * ids.length + i]];
    if (pictures[i].naturalWidth) context.drawImage(pictures[i], x - side / 2, y - side / 2, side, side);
    context.translate(x - side / 2, y - side / 2);
    context.fillStyle = fill;
    context.fill(shape);
    context.stroke(shape);
    context.setTransform(density, 0, 0, density, 0, 0);
  }
  context.resetTransform();
};
const drawPoints = () => {
  const list = currentSprites(), { half } = list[0], base = by * ids.length, hiddenGroups = hidden[by];
  const [ax, ay, x0, y0] = [scaleX(), scaleY(), left, top].map((length) => density * length);
  const pixels = new Uint32Array(buffer.data.buffer), { width: columns, height: rows } = canvas;
  pixels.fill(0);
  for (let k = 2 * ids.length - 1; k >= 0; k -= 1) { // the first group at the bottom, the highest novelty on top
    const i = k % ids.length, group = groupOf[base + i], x = (x0 + ax * xy[2 * i]) | 0, y = (y0 + ay * xy[2 * i + 1]) | 0;
    if (hiddenGroups[group] || (group > 0) === (k >= ids.length)) continue;
    if (x < half || y < half || x >= columns - half || y >= rows - half) continue;
    const { offsets, colours } = list[group], centre = y * columns + x;
    for (let j = 0; j < offsets.length; j += 1) pixels[centre + offsets[j]] = colours[j];
  }
  context.putImageData(buffer, 0, 0);
};
// Of more images than points: cells beneath, and beside the most unusual the points of the tiles in view.
const drawCells = () => {
  const fills = Array.from(legends.children[by].querySelectorAll("path"), (path) => getComputedStyle(path).fill.match(/\d+/g).map(Number));
  const view = { left, top, mapWidth: scale * (width - 2 * MARGIN), mapHeight: scale * (height - 2 * MARGIN), width, height, density };
  const tiles = drawDensity(under, view, { by: choices[by].dataset.by, stamp, colours: fills, hidden: hidden[by], fullest: Number(find("map-status").dataset.fullest), changed: redraw });
  const key = tiles.map((tile) => tile.ids[0]).join();
  if (key === pointed) return;
  pointed = key;
  const id = ids[selected], parts = [first, ...tiles], join = (Type, arrays) => {
    const joined = new Type(arrays.reduce((sum, array) => sum + array.length, 0));
    arrays.reduce((offset, array) => (joined.set(array, offset), offset + array.length), 0);
    return joined;
  };
  ids = join(Float64Array, parts.map((part) => part.ids));
  xy = join(Uint16Array, parts.map((part) => part.xy));
  ranks = join(Uint32Array, parts.map((part) => part.ranks));
  groupOf = join(Uint8Array, hidden.flatMap((_, legend) => parts.map((part) => part.pointGroups.subarray(legend * part.ids.length, (legend + 1) * part.ids.length))));
  selected = ids.indexOf(id);
};
const draw = () => {
  frame = 0;
  if (!ids.length || !buffer) return;
  if (first) drawCells();
  if (pictures.length) drawPictures();
  else drawPoints();
  if (selected < 0) return;
  const [x, y] = position(selected), ring = new Path2D();
  ring.arc(density * x, density * y, density * (pictures.length ? PICTURE * 0.7 : 9), 0, 7);
  Object.assign(context, { lineWidth: 2.5 * density, strokeStyle: getComputedStyle(canvas).color });
  context.stroke(ring);
};

// Selection and tooltip
const nearest = (x, y) => {
  const ax = scaleX(), ay = scaleY();
  let best = -1, least = (pictures.length ? PICTURE / 2 : HIT_RADIUS) ** 2;
  for (let i = 0; i < ids.length; i += 1) { // 20,000 take a fraction of a millisecond
    const distance = (left + ax * xy[2 * i] - x) ** 2 + (top + ay * xy[2 * i + 1] - y) ** 2;
    if (distance < least && !isHidden(i)) [best, least] = [i, distance];
  }
  return best;
};
const placeTooltip = () => {
  if (selected < 0 || tooltip.hidden) return;
  const [x, y] = position(selected), { offsetWidth, offsetHeight } = tooltip;
  const tooltipX = x + 18 + offsetWidth > width ? Math.max(0, x - offsetWidth - 18) : x + 18;
  tooltip.classList.toggle("on-top", y > height / 2); // on a phone it spans the width
  tooltip.style.translate = `${tooltipX}px ${clamp(y - offsetHeight / 2, 0, Math.max(0, height - offsetHeight))}px`;
};
const select = (i, delay = HOVER_MS) => {
  if (i === selected) return;
  selected = i;
  tooltip.hidden = true;
  canvas.classList.toggle("hovering", i >= 0);
  redraw();
  clearTimeout(hoverTimer);
  const url = `/map/image/${ids[i]}?rank=${(ranks ? ranks[i] : i) + 1}&total=${total}`;
  if (i >= 0) hoverTimer = setTimeout(() => htmx.ajax("GET", url, { source: tooltipContent, target: tooltipContent }), delay);
};
const openSelected = () => { if (selected >= 0) location.assign(`/history/${ids[selected]}`); };
const selectNext = (step) => {
  let i = selected < 0 && step < 0 ? ids.length - 1 : selected + step;
  while (i >= 0 && i < ids.length && isHidden(i)) i += step;
  if (i < 0 || i >= ids.length) return;
  const [x, y] = position(i);
  if (clamp(x, 0, width) !== x || clamp(y, 0, height) !== y) pan(width / 2 - x, height / 2 - y);
  select(i, 0);
};

// Pan and zoom
const applyView = () => { // the map always fills the canvas
  left = clamp(left, width - MARGIN - scale * (width - 2 * MARGIN), MARGIN);
  top = clamp(top, height - MARGIN - scale * (height - 2 * MARGIN), MARGIN);
  canvas.classList.toggle("zoomed", scale > 1); // touch then pans the map instead of the page
  redraw();
  placeTooltip();
};
const pan = (x, y) => {
  [left, top] = [left + x, top + y];
  applyView();
};
const zoom = (factor, x = width / 2, y = height / 2) => {
  const next = clamp(scale * factor, 1, MAX_SCALE), ratio = next / scale;
  [scale, left, top] = [next, x - (x - left) * ratio, y - (y - top) * ratio];
  applyView();
};
const resize = () => {
  if (!canvas.clientWidth) return;
  const [ratioX, ratioY] = width ? [canvas.clientWidth / width, canvas.clientHeight / height] : [1, 1];
  [width, height, density] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
  [canvas.width, canvas.height] = [under.width, under.height] = [Math.round(width * density), Math.round(height * density)];
  [left, top, sprites, buffer] = [left * ratioX, top * ratioY, null, context.createImageData(canvas.width, canvas.height)];
  applyView();
};
const pointers = new Map(), offset = (event) => [event.offsetX, event.offsetY];
let moved = 0;
const handlers = {
  pointerdown: (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, offset(event));
    moved = pointers.size > 1 ? DRAG_THRESHOLD : 0;
  },
  pointermove: (event) => {
    const [x, y] = offset(event), previous = pointers.get(event.pointerId);
    if (!previous) return select(nearest(x, y));
    const [dx, dy] = [x - previous[0], y - previous[1]];
    if (Math.max(moved, Math.hypot(dx, dy)) < DRAG_THRESHOLD) return;
    moved = DRAG_THRESHOLD;
    pointers.set(event.pointerId, [x, y]);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (!other) return pan(dx, dy);
    const span = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
    zoom(span([x, y]) / span(previous), (x + other[0]) / 2, (y + other[1]) / 2);
    pan(dx / 2, dy / 2);
  },
  pointerup: (event) => {
    if (!pointers.delete(event.pointerId) || moved >= DRAG_THRESHOLD) return;
    const i = nearest(...offset(event)), opens = i >= 0 && (event.pointerType === "mouse" || i === selected);
    select(i, 0); // the first touch selects, the second opens
    if (opens) openSelected();
  },
  pointercancel: (event) => pointers.delete(event.pointerId),
  pointerleave: (event) => { if (event.pointerType === "mouse" && !pointers.size) select(-1); },
  wheel: (event) => {
    if (event.deltaY > 0 && scale === 1) return; // already zoomed out: the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.06 : 0.002)), ...offset(event));
  },
  keydown: (event) => {
    const pans = { ArrowLeft: [PAN_STEP, 0], ArrowRight: [-PAN_STEP, 0], ArrowUp: [0, PAN_STEP], ArrowDown: [0, -PAN_STEP] };
    if (event.key in pans) pan(...pans[event.key]);
    else if (event.key === "Enter") openSelected();
    else if (event.key === "Escape") select(-1);
    else return;
    event.preventDefault();
  },
};
for (const [name, handler] of Object.entries(handlers)) canvas.addEventListener(name, handler, { passive: false });
for (const button of document.querySelectorAll(".map-controls button")) {
  const { step, zoom: factor } = button.dataset;
  button.addEventListener("click", () => (step ? selectNext(+step) : zoom(factor)));
}

// Legend: the grouping and the hidden groups
const applyLegend = () => {
  sprites = null;
  repaint();
  hidden = Array.from(legends.children, (legend, index) => {
    legend.hidden = index !== by;
    return Array.from(legend.querySelectorAll("input"), (input) => !input.checked);
  });
  redraw();
};
choices.forEach((choice, index) => choice.addEventListener("click", (event) => {
  event.preventDefault();
  choices[by].removeAttribute("aria-current");
  choice.setAttribute("aria-current", "true");
  history.replaceState(null, "", choice.href);
  by = index;
  applyLegend();
}));
legends.addEventListener("change", applyLegend);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyLegend);

// Loading, again after each new projection
const load = async () => {
  try {
    const response = await fetch("/map/points");
    if (!response.ok) return announce(errorMessage(response.status, await response.text()));
    const images = await (await fetch("/map/pictures")).json(); // none where the points are many
    const bytes = await response.arrayBuffer(), count = bytes.byteLength / POINT_BYTES;
    ids = new Float64Array(bytes, 0, count);
    xy = new Uint16Array(bytes, 8 * count, 2 * count);
    groupOf = new Uint8Array(bytes, 12 * count);
    [total, pointed, ranks] = [Number(find("map-status").dataset.total), "", null];
    first = count < total ? { ids, xy, ranks: Uint32Array.from(ids, (_, i) => i), pointGroups: groupOf } : null;
    forget();
    pictures = images.map((sha256) => Object.assign(new Image(), { onload: redraw }, sha256 && { src: `/pictures/${sha256}` }));
    select(-1);
    applyLegend();
    canvas.dataset.points = count;
    canvas.dataset.pictures = pictures.length;
  } catch {
    announce("The service does not answer.");
  }
};
document.addEventListener("htmx:afterSwap", async ({ detail }) => {
  if (detail.target === tooltipContent) {
    tooltip.hidden = !detail.pathInfo.requestPath.includes(`/${ids[selected]}?`); // another point may be selected by now
    placeTooltip();
  } else if (find("map-status").dataset.stamp !== stamp) {
    stamp = find("map-status").dataset.stamp;
    await htmx.ajax("GET", location.href, { target: "#legends", select: "#legends > fieldset", swap: "innerHTML" });
    load();
  }
});

stamp = find("map-status").dataset.stamp;
new ResizeObserver(resize).observe(canvas);
load();
