// What the page does beyond showing itself: a threshold to try, the strength of the heat maps, Escape to close a cell.
(() => {
  "use strict";
  const by = (id) => document.getElementById(id);
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;

  by("strength").addEventListener("input", (event) => {
    document.body.style.setProperty("--strength", event.target.value / 100);
  });

  document.addEventListener("keydown", (event) => {
    const open = document.querySelector(".cell:target .close");
    if (event.key === "Escape" && open) open.click();
  });
  window.addEventListener("hashchange", () => document.querySelector(":target")?.focus({ preventScroll: true }));

  if (!by("scores")) return;
  const { positives, negatives, own, ownCounts } = JSON.parse(by("scores").textContent);
  const steps = positives.length - 1;
  const sum = (counts, from = 0) => counts.slice(from).reduce((total, count) => total + count, 0);
  const share = (part, whole) => (whole ? (part / whole).toFixed(3) : "–");

  const show = (threshold, hits, alarms) => {
    const misses = sum(positives) - hits;
    const passed = sum(negatives) - alarms;
    const values = {
      at: String(Number(threshold.toPrecision(4))), hits, alarms, misses, passed,
      precision: share(hits, hits + alarms), recall: share(hits, hits + misses),
      f1: share(2 * hits, 2 * hits + misses + alarms), accuracy: share(hits + passed, hits + passed + misses + alarms),
    };
    for (const [id, value] of Object.entries(values)) by(id).textContent = value;
    const mark = by("mark");
    const left = Number(mark.dataset.left);
    mark.setAttribute("transform", `translate(${left + threshold * (mark.dataset.right - left)} 0)`);
  };
  by("slider").addEventListener("input", (event) => {
    const place = Math.round(event.target.value * steps); // a score is above place / steps from the next bin on
    show(place / steps, sum(positives, place + 1), sum(negatives, place + 1));
  });
  by("own").addEventListener("click", () => {
    by("slider").value = own;
    show(own, ...ownCounts);
  });
})();
