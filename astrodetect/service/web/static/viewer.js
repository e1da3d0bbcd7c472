// Zoom, position and stretch of all zoomable images of a page: two side by side move together.
const MAX_SCALE = 32, STEP = 1.5, PAN_STEP = 0.1, DRAG_PX = 4, PIXELS_SHOWN = 4, ENTRIES = 65;
const pointers = new Map();
let scale = 1, centre = [0.5, 0.5], moved = 0, filtered = false;

const images = () => document.querySelectorAll("svg.zoomable");
const find = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const show = () => {
  const margin = 0.5 / scale;
  centre = centre.map((value) => clamp(value, margin, 1 - margin));
  for (const svg of images()) {
    svg.dataset.box ??= svg.getAttribute("viewBox");
    const [, , width, height] = svg.dataset.box.split(" ").map(Number);
    const box = [(centre[0] - margin) * width, (centre[1] - margin) * height, width / scale, height / scale];
    svg.setAttribute("viewBox", box.join(" "));
    const pixels = svg.querySelector(".pixels");
    if (filtered) pixels.setAttribute("filter", "url(#stretch)");
    else pixels.removeAttribute("filter");
  }
  document.documentElement.classList.toggle("zoomed", scale > 1);
  document.documentElement.classList.toggle("zoomed-far", scale > PIXELS_SHOWN);
  if (find("zoom-scale")) find("zoom-scale").textContent = `${scale.toFixed(1)} ×`;
};

// The size of the drawing within its square element, and a point of the element as shares of the whole image.
const drawn = (svg) => {
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number), { width: w, height: h } = svg.getBoundingClientRect();
  const ratio = Math.min(w / width, h / height);
  return [width * ratio, height * ratio, w, h];
};
const place = (svg, x, y) => {
  const [width, height, w, h] = drawn(svg);
  return [centre[0] + (x - w / 2) / width / scale, centre[1] + (y - h / 2) / height / scale];
};

const zoom = (factor, svg, x, y) => {
  const before = svg && place(svg, x, y);
  scale = clamp(scale * factor, 1, MAX_SCALE);
  if (before) {
    const after = place(svg, x, y);
    centre = centre.map((value, axis) => value + before[axis] - after[axis]);
  }
  show();
};
const pan = (dx, dy) => { // shares of what is shown
  centre = [centre[0] + dx / scale, centre[1] + dy / scale];
  show();
};

const stretch = () => {
  const value = Object.fromEntries([...document.querySelectorAll(".view-sliders input")].map((input) => [input.name, input.type === "checkbox" ? input.checked : Number(input.value) / 100]));
  filtered = Object.values(value).some(Boolean);
  const strength = 10 ** (3 * value.stretch), slope = value.contrast < 0 ? 1 + value.contrast : 1 / Math.max(0.02, 1 - value.contrast);
  const table = Array.from({ length: ENTRIES }, (_, entry) => {
    let level = entry / (ENTRIES - 1);
    if (value.stretch) level = Math.asinh(strength * level) / Math.asinh(strength);
    level = (level ** (2 ** (-2 * value.gamma)) - 0.5) * slope + 0.5 + value.brightness;
    return clamp(value.invert ? 1 - level : level, 0, 1).toFixed(4);
  });
  for (const curve of find("stretch").querySelectorAll("[type=table]")) curve.setAttribute("tableValues", table.join(" "));
  show();
};

// Pictures of the stored values, where an image was a FITS; the choice stays from one image to the next.
const showValues = () => {
  const form = find("view-values"), bands = Math.max(0, ...Array.from(images(), (svg) => Number(svg.dataset.bands ?? 0)));
  if (!form) return;
  form.parentElement.hidden = !bands;
  const { bands: select, low, high } = form.elements;
  for (let band = select.options.length - 2; band < bands; band += 1) select.add(new Option(String(band)));
  const has = (choice, count) => choice !== "" && choice.split(",").every((band) => Number(band) < count);
  for (const option of select.options) option.hidden = option.value !== "" && !has(option.value, bands);
  high.setCustomValidity(Number(low.value) < Number(high.value) ? "" : "White needs a higher percentile than black");
  if (!form.reportValidity()) return;
  for (const svg of images()) {
    const pixels = svg.querySelector(".pixels"), stored = (pixels.dataset.stored ??= pixels.getAttribute("href"));
    const chosen = has(select.value, Number(svg.dataset.bands ?? 0));
    pixels.setAttribute("href", chosen ? `${stored}/values?${new URLSearchParams(new FormData(form))}` : stored);
  }
};

const reset = () => {
  find("view-values").reset();
  showValues();
  [scale, centre] = [1, [0.5, 0.5]];
  for (const input of document.querySelectorAll(".view-sliders input")) {
    input.value = input.defaultValue;
    input.checked = false;
  }
  stretch();
};

const handlers = {
  pointerdown: (event, svg) => {
    if (event.button) return;
    svg.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    moved = 0;
  },
  pointermove: (event, svg) => {
    const previous = pointers.get(event.pointerId);
    if (!previous || !(scale > 1 || pointers.size > 1)) return;
    const now = [event.clientX, event.clientY], [dx, dy] = [now[0] - previous[0], now[1] - previous[1]];
    if (pointers.size === 1 && (moved += Math.hypot(dx, dy)) < DRAG_PX) return;
    pointers.set(event.pointerId, now);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1], box = svg.getBoundingClientRect();
    if (other) {
      const span = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
      zoom(span(now) / span(previous), svg, (now[0] + other[0]) / 2 - box.x, (now[1] + other[1]) / 2 - box.y);
    }
    const [width, height] = drawn(svg);
    pan(-dx / width / (other ? 2 : 1), -dy / height / (other ? 2 : 1));
  },
  pointerup: (event) => pointers.delete(event.pointerId),
  pointercancel: (event) => pointers.delete(event.pointerId),
  dblclick: (event, svg) => zoom(2, svg, event.clientX - svg.getBoundingClientRect().x, event.clientY - svg.getBoundingClientRect().y),
  wheel: (event, svg) => {
    if (event.deltaY > 0 && scale === 1) return; // already zoomed out: the page scrolls
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.06 : 0.002)), svg, event.clientX - box.x, event.clientY - box.y);
  },
  keydown: (event) => {
    const pans = { ArrowLeft: [-PAN_STEP, 0], ArrowRight: [PAN_STEP, 0], ArrowUp: [0, -PAN_STEP], ArrowDown: [0, PAN_STEP] };
    if (scale === 1 || !(event.key in pans) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    pan(...pans[event.key]);
  },
};
for (const [name, handle] of Object.entries(handlers)) {
  document.addEventListener(name, (event) => {
    const svg = event.target.closest?.("svg.zoomable");
    if (svg) handle(event, svg);
  }, { passive: false });
}
document.addEventListener("click", ({ target }) => {
  const button = target.closest("#view-controls button");
  if (button) ({ "zoom-in": () => zoom(STEP), "zoom-out": () => zoom(1 / STEP), "view-reset": reset })[button.id]();
});
document.addEventListener("input", ({ target }) => { if (target.closest(".view-sliders")) stretch(); });
document.addEventListener("change", ({ target }) => { if (target.closest("#view-values")) showValues(); });
document.addEventListener("submit", (event) => { if (event.target.id === "view-values") event.preventDefault(); });
document.addEventListener("htmx:afterSwap", ({ detail }) => { // the next image is shown whole, stretched as the last one
  if (!detail.target.querySelector("svg.zoomable")) return; // another part of the page
  [scale, centre] = [1, [0.5, 0.5]];
  show();
  showValues();
});
if (find("view-controls")) show();
showValues();
