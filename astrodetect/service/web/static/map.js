// The map: points on a canvas, drawn anew only when something changed. How they look, the legend beside it says.
import { reason, say } from "./page.js";

const BYTES = 15, FINE = 65535; // of a point; steps across the map
const EDGE = 16, NEAR = 14, SLOP = 6, PAN = 60, CLOSEST = 64, SETTLED_MS = 80; // lengths in pixels
const find = (id) => document.getElementById(id);
const canvas = find("atlas"), pin = find("pin"), what = find("what"), legends = find("legends");
const pen = canvas.getContext("2d");
const choices = [...document.querySelectorAll("[data-by]")];
let ids = [], xy = [], of = [], stamp = "";
let by = choices.findIndex((choice) => choice.hasAttribute("aria-current")), hidden = [], marks = null, sheet = null;
let width = 0, height = 0, dots = 1, scale = 1, left = EDGE, top = EDGE, at = -1, frame = 0, asking = 0;

const clamp = (value, low, high) => Math.max(low, Math.min(value, high));
const redraw = () => { frame ||= requestAnimationFrame(draw); };
const across = () => scale * (width - 2 * EDGE) / FINE, down = () => scale * (height - 2 * EDGE) / FINE;
const spot = (i) => [left + across() * xy[2 * i], top + down() * xy[2 * i + 1]];
const veiled = (i) => hidden[by][of[by * ids.length + i]];

// How it is drawn: the pixels of a point are copied, which takes a fiftieth of the time of drawImage
const mark = (glyph, size, paper) => {
  const half = Math.ceil(6 * size), side = 2 * half;
  const ink = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  const read = () => ink.getImageData(0, 0, side, side).data.buffer, path = new Path2D(glyph.getAttribute("d"));
  ink.setTransform(size, 0, 0, size, half, half);
  Object.assign(ink, { fillStyle: getComputedStyle(glyph).fill, strokeStyle: paper, lineWidth: 0.7 });
  ink.fill(path);
  ink.stroke(path);
  const covered = new Uint8Array(read());
  Object.assign(ink, { globalCompositeOperation: "destination-over", fillStyle: paper });
  ink.fillRect(-half, -half, side, side);
  const inks = new Uint32Array(read()), some = [...inks.keys()].filter((j) => covered[4 * j + 3] > 96);
  const places = some.map((j) => (j % side) - half + (Math.floor(j / side) - half) * canvas.width);
  return { half, places: Int32Array.from(places), inks: Uint32Array.from(some, (j) => inks[j]) };
};
const inked = () => {
  const crowded = ids.length > 8000 ? 0.62 : ids.length > 1500 ? 0.8 : 1.05;
  const size = dots * crowded * (1 + 0.2 * Math.round(Math.log2(scale)));
  if (marks?.size === size) return marks.of;
  const paper = getComputedStyle(canvas).backgroundColor, glyphs = legends.children[by].querySelectorAll("path");
  marks = { size, of: Array.from(glyphs, (glyph) => mark(glyph, size, paper)) };
  return marks.of;
};
const draw = () => {
  frame = 0;
  if (!ids.length || !sheet) return;
  const looks = inked(), { half } = looks[0], base = by * ids.length, gone = hidden[by];
  const [ax, ay, x0, y0] = [across(), down(), left, top].map((length) => dots * length);
  const pixels = new Uint32Array(sheet.data.buffer), { width: wide, height: tall } = canvas;
  pixels.fill(0);
  for (let k = 2 * ids.length - 1; k >= 0; k -= 1) { // the first group below all others, the unusual on top
    const i = k % ids.length, its = of[base + i], x = (x0 + ax * xy[2 * i]) | 0, y = (y0 + ay * xy[2 * i + 1]) | 0;
    if (gone[its] || (its > 0) === (k >= ids.length)) continue;
    if (x < half || y < half || x >= wide - half || y >= tall - half) continue;
    const { places, inks } = looks[its], middle = y * wide + x;
    for (let j = 0; j < places.length; j += 1) pixels[middle + places[j]] = inks[j];
  }
  pen.putImageData(sheet, 0, 0);
  if (at < 0) return;
  const [x, y] = spot(at), ring = new Path2D();
  ring.arc(dots * x, dots * y, dots * 9, 0, 7);
  Object.assign(pen, { lineWidth: 2.5 * dots, strokeStyle: getComputedStyle(canvas).color });
  pen.stroke(ring);
};

// What is seen of a point
const nearest = (x, y) => {
  const ax = across(), ay = down();
  let best = -1, least = NEAR ** 2;
  for (let i = 0; i < ids.length; i += 1) { // a look at 20,000 takes a fraction of a millisecond
    const apart = (left + ax * xy[2 * i] - x) ** 2 + (top + ay * xy[2 * i + 1] - y) ** 2;
    if (apart < least && !veiled(i)) [best, least] = [i, apart];
  }
  return best;
};
const place = () => {
  if (at < 0 || pin.hidden) return;
  const [x, y] = spot(at), { offsetWidth: wide, offsetHeight: tall } = pin;
  const beside = x + 18 + wide > width ? Math.max(0, x - wide - 18) : x + 18;
  pin.classList.toggle("high", y > height / 2); // on a phone, where it lies across
  pin.style.translate = `${beside}px ${clamp(y - tall / 2, 0, Math.max(0, height - tall))}px`;
};
const point = (i, delay = SETTLED_MS) => {
  if (i === at) return;
  at = i;
  pin.hidden = true;
  canvas.classList.toggle("on", i >= 0);
  redraw();
  clearTimeout(asking);
  const address = `/map/image/${ids[i]}?place=${i + 1}&of=${ids.length}`;
  if (i >= 0) asking = setTimeout(() => htmx.ajax("GET", address, { source: what, target: what }), delay);
};
const open = () => { if (at >= 0) location.assign(`/history/${ids[at]}`); };
const walk = (step) => {
  let i = at < 0 && step < 0 ? ids.length - 1 : at + step;
  while (i >= 0 && i < ids.length && veiled(i)) i += step;
  if (i < 0 || i >= ids.length) return;
  const [x, y] = spot(i);
  if (clamp(x, 0, width) !== x || clamp(y, 0, height) !== y) pan(width / 2 - x, height / 2 - y);
  point(i, 0);
};

// How it is moved
const settle = () => { // its edges never come far in
  left = clamp(left, width - EDGE - scale * (width - 2 * EDGE), EDGE);
  top = clamp(top, height - EDGE - scale * (height - 2 * EDGE), EDGE);
  canvas.classList.toggle("near", scale > 1); // a finger then moves the map, else the page
  redraw();
  place();
};
const pan = (x, y) => {
  [left, top] = [left + x, top + y];
  settle();
};
const zoom = (factor, x = width / 2, y = height / 2) => {
  const next = clamp(scale * factor, 1, CLOSEST), grown = next / scale;
  [scale, left, top] = [next, x - (x - left) * grown, y - (y - top) * grown];
  settle();
};
const fit = () => {
  if (!canvas.clientWidth) return;
  const [wider, taller] = width ? [canvas.clientWidth / width, canvas.clientHeight / height] : [1, 1];
  [width, height, dots] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
  [canvas.width, canvas.height] = [Math.round(width * dots), Math.round(height * dots)];
  [left, top, marks, sheet] = [left * wider, top * taller, null, pen.createImageData(canvas.width, canvas.height)];
  settle();
};
const fingers = new Map(), where = (event) => [event.offsetX, event.offsetY];
let moved = 0;
const hears = {
  pointerdown: (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, where(event));
    moved = fingers.size > 1 ? SLOP : 0;
  },
  pointermove: (event) => {
    const [x, y] = where(event), before = fingers.get(event.pointerId);
    if (!before) return point(nearest(x, y));
    const [dx, dy] = [x - before[0], y - before[1]];
    if (Math.max(moved, Math.hypot(dx, dy)) < SLOP) return;
    moved = SLOP;
    fingers.set(event.pointerId, [x, y]);
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (!other) return pan(dx, dy);
    const span = (from) => Math.max(1, Math.hypot(from[0] - other[0], from[1] - other[1]));
    zoom(span([x, y]) / span(before), (x + other[0]) / 2, (y + other[1]) / 2);
    pan(dx / 2, dy / 2);
  },
  pointerup: (event) => {
    if (!fingers.delete(event.pointerId) || moved >= SLOP) return;
    const i = nearest(...where(event)), opens = i >= 0 && (event.pointerType === "mouse" || i === at);
    point(i, 0); // a finger shows it first, and opens it the second time
    if (opens) open();
  },
  pointercancel: (event) => fingers.delete(event.pointerId),
  pointerleave: (event) => { if (event.pointerType === "mouse" && !fingers.size) point(-1); },
  wheel: (event) => {
    if (event.deltaY > 0 && scale === 1) return; // there is nothing to zoom out of: the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.06 : 0.002)), ...where(event));
  },
  keydown: (event) => {
    const ways = { ArrowLeft: [PAN, 0], ArrowRight: [-PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] };
    if (event.key in ways) pan(...ways[event.key]);
    else if (event.key === "Enter") open();
    else if (event.key === "Escape") point(-1);
    else return;
    event.preventDefault();
  },
};
for (const [name, heard] of Object.entries(hears)) canvas.addEventListener(name, heard, { passive: false });
for (const button of document.querySelectorAll(".steer button")) {
  const { walk: step, zoom: factor } = button.dataset;
  button.addEventListener("click", () => (step ? walk(+step) : zoom(factor)));
}

// What is told apart, and what is left out
const colour = () => {
  marks = null;
  hidden = Array.from(legends.children, (legend, number) => {
    legend.hidden = number !== by;
    return Array.from(legend.querySelectorAll("input"), (input) => !input.checked);
  });
  redraw();
};
choices.forEach((choice, number) => choice.addEventListener("click", (event) => {
  event.preventDefault();
  choices[by].removeAttribute("aria-current");
  choice.setAttribute("aria-current", "true");
  history.replaceState(null, "", choice.href);
  by = number;
  colour();
}));
legends.addEventListener("change", colour);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colour);

// Where points come from, and come from again when a better map is there
const load = async () => {
  try {
    const answer = await fetch("/map/points");
    if (!answer.ok) return say(reason(answer.status, await answer.text()));
    const bytes = await answer.arrayBuffer(), count = bytes.byteLength / BYTES;
    ids = new Float64Array(bytes, 0, count);
    xy = new Uint16Array(bytes, 8 * count, 2 * count);
    of = new Uint8Array(bytes, 12 * count);
    point(-1);
    colour();
    canvas.dataset.points = count;
  } catch {
    say("The service does not answer: is it still running?");
  }
};
document.addEventListener("htmx:afterSwap", async ({ detail }) => {
  if (detail.target === what) {
    pin.hidden = !detail.pathInfo.requestPath.includes(`/${ids[at]}?`); // the pointer may be elsewhere by now
    place();
  } else if (find("drawn").dataset.stamp !== stamp) {
    stamp = find("drawn").dataset.stamp;
    await htmx.ajax("GET", location.href, { target: "#legends", select: "#legends > fieldset", swap: "innerHTML" });
    load();
  }
});

stamp = find("drawn").dataset.stamp;
new ResizeObserver(fit).observe(canvas);
load();
