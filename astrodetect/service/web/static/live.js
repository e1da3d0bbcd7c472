// New predictions as they are logged: cards on the Live page, a link with their number on History.
const MAX_CARDS = 60, MINUTE_MS = 60_000, ANNOUNCE_MS = 5000, UPDATE_MS = 1000, REFUSED_MS = 10_000, THUMBNAIL_MS = 2000;
const find = (id) => document.getElementById(id), format = (count) => count.toLocaleString("en");
const source = document.querySelector("[data-events]"), list = find("live-cards"), pauseButton = find("pause");
const setText = (id, text) => { if (list) find(id).textContent = text; };
const total = { images: 0, out: 0 }, unannounced = { images: 0, out: 0, time: -Infinity };
let after = source.dataset.after, paused = false, arrivals = [], pending = [], stream;

const connect = () => {
  stream?.close();
  setText("state", paused ? "Paused: new predictions appear when you resume." : "Connecting…");
  if (paused || document.hidden) return; // browsers limit the connections to a host
  const url = new URL(source.dataset.events, location);
  url.searchParams.set("after", after);
  const current = stream = new EventSource(url);
  current.addEventListener("away", ({ data }) => setText("state", JSON.parse(data)));
  current.addEventListener("news", ({ data, lastEventId }) => { after = lastEventId; receive(JSON.parse(data)); });
  current.addEventListener("error", () => {
    const refused = current.readyState === EventSource.CLOSED; // otherwise the browser reconnects by itself
    const reason = refused ? "has too many live connections, or you are signed out" : "does not answer";
    setText("state", `The service ${reason}; trying again.`);
    if (refused) setTimeout(() => current === stream && connect(), REFUSED_MS);
  });
};

const receive = (event) => {
  const template = document.createElement("template");
  template.innerHTML = event.cards; // rendered and escaped by the service
  const isHighlighted = (card) => card.matches(".anomalous");
  const isShown = ({ id }) => find(id) ?? pending.find((card) => card.id === id);
  const cards = [...template.content.children], repeated = cards.filter(isShown), images = event.images - repeated.length;
  for (const counter of [total, unannounced]) {
    counter.images += images;
    counter.out += event.out - repeated.filter(isHighlighted).length;
  }
  arrivals.push([performance.now(), images]);
  pending = [...cards.filter((card) => !repeated.includes(card)), ...pending].slice(0, MAX_CARDS);
  setText("state", `Connected: new predictions appear here.${event.whole ? "" : " Some were too many to count."}`);
  update();
  if (images) document.body.dispatchEvent(new Event("new-predictions")); // the notice on the model's domain may be due
};

const update = () => {
  const now = performance.now();
  arrivals = arrivals.filter(([time]) => now - time < MINUTE_MS);
  for (const id of ["images", "out"]) setText(id, format(total[id]));
  setText("minute", format(arrivals.reduce((sum, [, count]) => sum + count, 0)));
  if (unannounced.images > 0 && now - unannounced.time > ANNOUNCE_MS) {
    setText("sr-status", `${format(unannounced.images)} new, ${format(unannounced.out)} anomalous or unusual`);
    Object.assign(unannounced, { images: 0, out: 0, time: now });
  }
  if (!list && total.images) {
    source.textContent = `${format(total.images)} new prediction${total.images === 1 ? "" : "s"}`;
    source.hidden = false;
  } else if (pending.length && !list.matches(":hover, :focus-within")) { // cards must not move while they are used
    for (const card of pending) card.classList.add("new");
    list.prepend(...pending.splice(0));
    while (list.children.length > MAX_CARDS) list.lastElementChild.remove();
    find("empty").hidden = true;
  }
};

list?.addEventListener("error", ({ target }) => { // a thumbnail may be stored a moment after its row, or never
  if (target.classList.toggle("retried")) setTimeout(() => { target.src += ""; }, THUMBNAIL_MS);
  else {
    target.parentElement.classList.add("missing");
    target.replaceWith("no thumbnail");
  }
}, true);
pauseButton?.addEventListener("click", () => {
  paused = !paused;
  pauseButton.firstElementChild.textContent = paused ? "Resume" : "Pause";
  connect();
});
for (const element of list ? [pauseButton, find("counters")] : []) element.hidden = false;
document.addEventListener("visibilitychange", connect);
setInterval(update, UPDATE_MS);
connect();
