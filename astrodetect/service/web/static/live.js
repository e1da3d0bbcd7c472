// Live: news as it is logged, on the wall where there is one, else as a line that counts it.
const MOST_CARDS = 60, MINUTE_MS = 60_000, SUM_UP_MS = 5000, TICK_MS = 1000, REFUSED_MS = 10_000, PICTURE_MS = 2000;
const find = (id) => document.getElementById(id), number = (count) => count.toLocaleString("en");
const source = document.querySelector("[data-events]"), wall = find("wall"), pause = find("pause");
const show = (id, text) => { if (wall) find(id).textContent = text; };
const total = { images: 0, out: 0 }, unsaid = { images: 0, out: 0, at: 0 };
let after = source.dataset.after, paused = false, arrivals = [], waiting = [], stream;

const open = () => {
  stream?.close();
  show("state", paused ? "Paused: what comes meanwhile appears when you go on." : "Connecting…");
  if (paused || document.hidden) return; // a browser has few lines to a host
  const url = new URL(source.dataset.events, location);
  url.searchParams.set("after", after);
  const line = stream = new EventSource(url);
  line.addEventListener("away", ({ data }) => show("state", JSON.parse(data)));
  line.addEventListener("news", ({ data, lastEventId }) => { after = lastEventId; arrive(JSON.parse(data)); });
  line.addEventListener("error", () => {
    const refused = line.readyState === EventSource.CLOSED; // else the browser tries again by itself
    show("state", `The service ${refused ? "has no room for one more watcher" : "does not answer"}: trying again.`);
    if (refused) setTimeout(() => line === stream && open(), REFUSED_MS);
  });
};

const arrive = (news) => {
  const made = document.createElement("template");
  made.innerHTML = news.cards; // by the service, which has escaped what comes from outside
  const odd = (card) => card.matches(".odd");
  const known = ({ id }) => find(id) ?? waiting.find((card) => card.id === id);
  const cards = [...made.content.children], again = cards.filter(known);
  for (const sum of [total, unsaid]) { sum.images += news.images - again.length; sum.out += news.out - again.filter(odd).length; }
  arrivals.push([Date.now(), news.images - again.length]);
  waiting = [...cards.filter((card) => !again.includes(card)), ...waiting].slice(0, MOST_CARDS);
  show("state", `Watching: what is logged appears here.${news.whole ? "" : " More came than are counted."}`);
  tick();
};

const tick = () => {
  const now = Date.now();
  arrivals = arrivals.filter(([at]) => now - at < MINUTE_MS);
  for (const id of ["images", "out"]) show(id, number(total[id]));
  show("minute", number(arrivals.reduce((sum, [, count]) => sum + count, 0)));
  if (unsaid.images > 0 && now - unsaid.at > SUM_UP_MS) {
    show("heard", `${number(unsaid.images)} new, ${number(unsaid.out)} ${unsaid.out === 1 ? "stands" : "stand"} out`);
    Object.assign(unsaid, { images: 0, out: 0, at: now });
  }
  if (!wall && total.images) {
    source.textContent = `${number(total.images)} new prediction${total.images === 1 ? "" : "s"}`;
    source.hidden = false;
  } else if (waiting.length && !wall.matches(":hover, :focus-within")) { // nothing moves under a hand
    for (const card of waiting) card.classList.add("new");
    wall.prepend(...waiting.splice(0));
    while (wall.children.length > MOST_CARDS) wall.lastElementChild.remove();
    find("empty").hidden = true;
  }
};

wall?.addEventListener("error", ({ target }) => { // a picture may come a moment after its row, or never
  if (target.classList.toggle("late")) setTimeout(() => { target.src += ""; }, PICTURE_MS);
  else {
    target.parentElement.classList.add("gone");
    target.replaceWith("no picture kept");
  }
}, true);
pause?.addEventListener("click", () => {
  paused = !paused;
  pause.firstElementChild.textContent = paused ? "Go on" : "Pause";
  open();
});
for (const hidden of wall ? [pause, find("figures")] : []) hidden.hidden = false;
document.addEventListener("visibilitychange", open);
setInterval(tick, TICK_MS);
open();
