// The opacity of the occlusion maps, the filters of the gallery, and the map.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;
  byId("preview").hidden = true;

  byId("strength").addEventListener("input", (event) => {
    document.body.style.setProperty("--strength", event.target.value / 100);
  });

  const cards = [...document.querySelectorAll(".results > li")];
  const filters = [...document.querySelectorAll("select[data-by]")];
  const applyFilters = () => {
    for (const card of cards) {
      card.hidden = filters.some(({ value, dataset }) => value && !matches(card.dataset[dataset.by], value, dataset.by));
    }
    const shown = cards.filter((card) => !card.hidden).length;
    byId("shown-count").textContent = shown < cards.length ? `${shown} of ${cards.length} shown` : "";
  };
  const matches = (actual, selected, name) => (name === "flags" ? actual.split(" ").includes(selected) : actual === selected);
  for (const select of filters) select.addEventListener("change", applyFilters);

  const showTarget = () => { // a card that is linked to is shown even if filtered out
    const card = document.querySelector(".results > li:target");
    if (!card) return;
    if (card.hidden) {
      for (const select of filters) select.value = "";
      applyFilters();
      card.scrollIntoView();
    }
    card.focus({ preventScroll: true });
  };
  window.addEventListener("hashchange", showTarget);

  const chart = byId("projection"), cursor = byId("cursor"), preview = byId("preview");
  const { xy, marks, ranks, names, cards: lastRank } = JSON.parse(byId("points").textContent);
  const TILE = Number(preview.dataset.tile), COLUMNS = Number(preview.dataset.across), TILES = Number(preview.dataset.tiles);
  const POINTER_RADIUS = 14; // screen pixels from the pointer
  const visible = new Set(marks);
  let current = -1;

  const select = (index) => {
    current = index;
    preview.hidden = index < 0;
    cursor.setAttribute("cx", index < 0 ? -99 : xy[2 * index]);
    cursor.setAttribute("cy", index < 0 ? -99 : xy[2 * index + 1]);
    if (index < 0) return;
    const tile = preview.firstElementChild;
    tile.hidden = index >= TILES;
    tile.style.backgroundPosition = `-${(index % COLUMNS) * TILE}px -${Math.floor(index / COLUMNS) * TILE}px`;
    tile.setAttribute("aria-label", names[index]);
    preview.lastElementChild.textContent = `${ranks[index]}: ${names[index]}`;
    const scale = chart.clientWidth / chart.viewBox.baseVal.width;
    const [x, y] = [xy[2 * index] * scale, xy[2 * index + 1] * scale];
    const { offsetWidth: width, offsetHeight: height } = preview;
    preview.style.left = `${x + 16 + width > chart.clientWidth ? Math.max(0, x - width - 16) : x + 16}px`;
    preview.style.top = `${Math.max(0, Math.min(y - height / 2, chart.clientHeight - height))}px`;
  };
  const nearest = (event) => {
    const box = chart.getBoundingClientRect();
    const scale = chart.viewBox.baseVal.width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let best = -1, smallest = (POINTER_RADIUS * scale) ** 2;
    for (let i = 0; i < marks.length; i += 1) {
      const squared = (xy[2 * i] - x) ** 2 + (xy[2 * i + 1] - y) ** 2;
      if (squared < smallest && visible.has(marks[i])) [best, smallest] = [i, squared];
    }
    return best;
  };
  const openCard = () => {
    if (current < 0 || ranks[current] > lastRank) return;
    if (location.hash === `#card-${ranks[current]}`) showTarget();
    location.hash = `card-${ranks[current]}`;
  };
  const step = (direction) => {
    for (let i = current + direction; i >= 0 && i < marks.length; i += direction) {
      if (visible.has(marks[i])) return select(i);
    }
  };

  chart.addEventListener("pointermove", (event) => select(nearest(event)));
  chart.addEventListener("pointerleave", () => select(-1));
  chart.addEventListener("blur", () => select(-1));
  chart.addEventListener("click", (event) => {
    event.preventDefault();
    select(nearest(event));
    openCard();
  });
  chart.addEventListener("keydown", (event) => {
    const directions = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key in directions) step(directions[event.key]);
    else if (event.key === "Enter") openCard();
    else if (event.key === "Escape") select(-1);
    else return;
    event.preventDefault();
  });
  for (const choice of document.querySelectorAll(".legend input")) {
    choice.addEventListener("change", () => {
      const mark = Number(choice.dataset.mark);
      if (choice.checked) visible.add(mark);
      else visible.delete(mark);
      chart.querySelector(`path[data-mark="${mark}"]`).style.display = choice.checked ? "" : "none";
    });
  }
  for (const link of document.querySelectorAll(".to-map")) { // moves the map's cursor to the image
    link.addEventListener("click", () => {
      const rank = Number(link.parentElement.id.slice("card-".length));
      select(ranks.indexOf(rank));
      chart.focus({ preventScroll: true });
    });
  }
})();
