// What the page does beyond showing itself: how strong the overlays are, which cards are seen, and the map.
(() => {
  "use strict";
  const by = (id) => document.getElementById(id);
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;
  by("preview").hidden = true;

  by("strength").addEventListener("input", (event) => {
    document.body.style.setProperty("--strength", event.target.value / 100);
  });

  const cards = [...document.querySelectorAll(".found > li")];
  const choices = [...document.querySelectorAll("select[data-by]")];
  const filter = () => {
    for (const card of cards) {
      card.hidden = choices.some(({ value, dataset }) => value && !fits(card.dataset[dataset.by], value, dataset.by));
    }
    const shown = cards.filter((card) => !card.hidden).length;
    by("left").textContent = shown < cards.length ? `${shown} of ${cards.length} shown` : "";
  };
  const fits = (has, wanted, name) => (name === "flags" ? has.split(" ").includes(wanted) : has === wanted);
  for (const choice of choices) choice.addEventListener("change", filter);

  const unhide = () => { // a card that is gone to is seen, whatever the filters say
    const card = document.querySelector(".found > li:target");
    if (!card) return;
    if (card.hidden) {
      for (const choice of choices) choice.value = "";
      filter();
      card.scrollIntoView();
    }
    card.focus({ preventScroll: true });
  };
  window.addEventListener("hashchange", unhide);

  const atlas = by("atlas"), here = by("here"), preview = by("preview");
  const { xy, marks, ranks, names, cards: last } = JSON.parse(by("points").textContent);
  const TILE = Number(preview.dataset.tile), ACROSS = Number(preview.dataset.across), TILES = Number(preview.dataset.tiles);
  const NEAR = 14; // screen pixels from the pointer
  const seen = new Set(marks);
  let at = -1;

  const point = (number) => {
    at = number;
    preview.hidden = number < 0;
    here.setAttribute("cx", number < 0 ? -99 : xy[2 * number]);
    here.setAttribute("cy", number < 0 ? -99 : xy[2 * number + 1]);
    if (number < 0) return;
    const tile = preview.firstElementChild;
    tile.hidden = number >= TILES;
    tile.style.backgroundPosition = `-${(number % ACROSS) * TILE}px -${Math.floor(number / ACROSS) * TILE}px`;
    tile.setAttribute("aria-label", names[number]);
    preview.lastElementChild.textContent = `${ranks[number]}: ${names[number]}`;
    const scale = atlas.clientWidth / atlas.viewBox.baseVal.width;
    const [x, y] = [xy[2 * number] * scale, xy[2 * number + 1] * scale];
    const { offsetWidth: width, offsetHeight: height } = preview;
    preview.style.left = `${x + 16 + width > atlas.clientWidth ? Math.max(0, x - width - 16) : x + 16}px`;
    preview.style.top = `${Math.max(0, Math.min(y - height / 2, atlas.clientHeight - height))}px`;
  };
  const nearest = (event) => {
    const box = atlas.getBoundingClientRect();
    const scale = atlas.viewBox.baseVal.width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let best = -1, least = (NEAR * scale) ** 2;
    for (let i = 0; i < marks.length; i += 1) {
      const apart = (xy[2 * i] - x) ** 2 + (xy[2 * i + 1] - y) ** 2;
      if (apart < least && seen.has(marks[i])) [best, least] = [i, apart];
    }
    return best;
  };
  const go = () => {
    if (at < 0 || ranks[at] > last) return;
    if (location.hash === `#card-${ranks[at]}`) unhide();
    location.hash = `card-${ranks[at]}`;
  };
  const walk = (step) => {
    for (let i = at + step; i >= 0 && i < marks.length; i += step) {
      if (seen.has(marks[i])) return point(i);
    }
  };

  atlas.addEventListener("pointermove", (event) => point(nearest(event)));
  atlas.addEventListener("pointerleave", () => point(-1));
  atlas.addEventListener("blur", () => point(-1));
  atlas.addEventListener("click", (event) => {
    event.preventDefault();
    point(nearest(event));
    go();
  });
  atlas.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key in steps) walk(steps[event.key]);
    else if (event.key === "Enter") go();
    else if (event.key === "Escape") point(-1);
    else return;
    event.preventDefault();
  });
  for (const choice of document.querySelectorAll(".key input")) {
    choice.addEventListener("change", () => {
      const mark = Number(choice.dataset.mark);
      if (choice.checked) seen.add(mark);
      else seen.delete(mark);
      atlas.querySelector(`path[data-mark="${mark}"]`).style.display = choice.checked ? "" : "none";
    });
  }
  for (const link of document.querySelectorAll(".to-map")) { // the map opens where the image is
    link.addEventListener("click", () => {
      const rank = Number(link.parentElement.id.slice("card-".length));
      point(ranks.indexOf(rank));
      atlas.focus({ preventScroll: true });
    });
  }
})();
