// On every page: announcements, error messages, keyboard shortcuts, and heat maps.
const announcement = document.getElementById("announcement");
let hideTimer = 0;

export const announce = (text) => {
  announcement.textContent = text;
  announcement.classList.add("visible");
  clearTimeout(hideTimer);
  hideTimer = setTimeout(() => announcement.classList.remove("visible"), 8000);
};

export const errorMessage = (status, text) => {
  try {
    return JSON.parse(text).error.message;
  } catch { // not the service's JSON: a proxy's page, say
    return `the service answered with status ${status}`;
  }
};

document.addEventListener("input", ({ target }) => {
  if (target.matches("input.heat-opacity")) {
    document.documentElement.style.setProperty("--heat-opacity", target.value / 100);
    for (const slider of document.querySelectorAll("input.heat-opacity")) slider.value = target.value;
  }
});

// Heat maps by occlusion are computed on demand: of images in view, and again later where the service was busy.
const RETRY_MS = 2000, MAX_TRIES = 15;
const inView = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter(({ isIntersecting }) => isIntersecting)) {
    inView.unobserve(target);
    target.setAttribute("href", target.dataset.href);
  }
});
export const loadHeatMaps = (element) => element.querySelectorAll("image.heat-map[data-href]").forEach((map) => inView.observe(map));
document.addEventListener("error", ({ target }) => {
  if (!target.matches?.("image.heat-map")) return;
  target.dataset.tries = Number(target.dataset.tries ?? 0) + 1;
  target.dataset.href ??= target.getAttribute("href");
  target.removeAttribute("href");
  if (target.dataset.tries < MAX_TRIES) setTimeout(() => inView.observe(target), RETRY_MS);
}, true);

// Shortcuts: data-key names the key of a control; not while typing, nor with Ctrl or Alt, which belong to the browser.
const shortcuts = document.getElementById("shortcuts");
const setting = (value) => { // storage may be disabled
  try { return value ? localStorage.setItem("keys", value) : localStorage.getItem("keys"); } catch { return null; }
};
let enabled = true;
const setEnabled = (on) => {
  enabled = on;
  shortcuts.setAttribute("aria-pressed", on);
  shortcuts.lastElementChild.textContent = on ? "on" : "off";
  document.documentElement.classList.toggle("shortcuts-off", !on);
};
shortcuts.addEventListener("click", () => { setEnabled(!enabled); setting(enabled ? "on" : "off"); });
setEnabled(setting() !== "off");
shortcuts.hidden = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return;
  const input = event.target.closest("textarea, select, input:not([type=checkbox], [type=range])");
  if (input) {
    if (event.key === "Escape") input.blur();
    return;
  }
  if (!enabled) return;
  const control = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!control || control.disabled) return;
  event.preventDefault();
  if (control.matches("textarea, input")) control.focus();
  else control.click();
});

document.addEventListener("announce", ({ detail }) => announce(detail.value)); // the header HX-Trigger: {"announce": "…"}
const announceError = (text) => { // once while the same error repeats, as it does when polling
  if (announcement.textContent !== text || !announcement.classList.contains("visible")) announce(text);
};
document.addEventListener("htmx:responseError", ({ detail }) => announceError(errorMessage(detail.xhr.status, detail.xhr.responseText)));
document.addEventListener("htmx:sendError", () => announceError("The service does not answer."));

// Where the control in focus is replaced, and by none with its id, the focus stays in that part of the page.
let replaced = "";
const hasFocus = (part) => part !== document.activeElement && part.contains(document.activeElement);
document.addEventListener("htmx:beforeSwap", ({ detail: { target } }) => { replaced = hasFocus(target) ? target.id : ""; });
document.addEventListener("htmx:afterSettle", () => {
  const part = document.activeElement === document.body && document.getElementById(replaced);
  replaced = "";
  if (part) Object.assign(part, { tabIndex: -1 }).focus({ preventScroll: true });
});

// What was entered before the scripts were there, or put back by the browser, acts as if it were entered now.
const oneLine = (text) => text?.replace(/[\r\n]/g, ""); // as browsers show values
const wasEntered = ({ type, options, selectedIndex, checked, defaultChecked, value, defaultValue }) => options
  ? selectedIndex !== Math.max(0, [...options].findIndex((option) => option.defaultSelected))
  : type === "checkbox" ? checked !== defaultChecked : value && oneLine(value) !== oneLine(defaultValue);
addEventListener("pageshow", ({ persisted }) => { // after all scripts, and after Chromium has put values back
  for (const control of persisted ? [] : [...document.querySelectorAll("input, select, textarea")].filter(wasEntered)) {
    for (const type of ["input", "change"]) control.dispatchEvent(new Event(type, { bubbles: true }));
  }
});
