// What every page does: keys on buttons, heat maps made fainter, and what went wrong said where a screen reader hears it.
const said = document.getElementById("said");
let fading = 0;

export const say = (text) => {
  said.textContent = text;
  said.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => said.classList.remove("shown"), 8000);
};

export const reason = (status, text) => {
  try {
    return JSON.parse(text).error.message;
  } catch { // no answer in our shape: a proxy's, say
    return `the service answered ${status}`;
  }
};

document.addEventListener("input", ({ target }) => {
  if (target.matches("input.strength")) {
    document.documentElement.style.setProperty("--strength", target.value / 100);
    for (const other of document.querySelectorAll("input.strength")) other.value = target.value;
  }
});

// A key on a button, as data-key says: not while somebody writes, and not beside Ctrl or Alt, which are the browser's.
const keys = document.getElementById("keys");
const kept = (set) => { // a browser may refuse it
  try { return set ? localStorage.setItem("keys", set) : localStorage.getItem("keys"); } catch { return null; }
};
let keyed = true;
const turn = (on) => {
  keyed = on;
  keys.setAttribute("aria-pressed", on);
  keys.lastElementChild.textContent = on ? "on" : "off";
  document.documentElement.classList.toggle("keyless", !on);
};
keys.addEventListener("click", () => { turn(!keyed); kept(keyed ? "on" : "off"); });
turn(kept() !== "off");
keys.hidden = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return;
  const writing = event.target.closest("textarea, select, input:not([type=checkbox], [type=range])");
  if (writing) {
    if (event.key === "Escape") writing.blur();
    return;
  }
  if (!keyed) return;
  const control = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!control || control.disabled) return;
  event.preventDefault();
  if (control.matches("textarea, input")) control.focus();
  else control.click();
});

document.addEventListener("say", ({ detail }) => say(detail.value)); // an answer's header HX-Trigger: {"say": "…"}
const wrong = (text) => { if (said.textContent !== text || !said.classList.contains("shown")) say(text); }; // once, of what polls
document.addEventListener("htmx:responseError", ({ detail }) => wrong(reason(detail.xhr.status, detail.xhr.responseText)));
document.addEventListener("htmx:sendError", () => wrong("The service does not answer: is it still running?"));
