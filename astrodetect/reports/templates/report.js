// The threshold slider, the opacity of the heat maps, and Escape to close a cell of the confusion matrix.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;

  byId("strength").addEventListener("input", (event) => {
    document.body.style.setProperty("--strength", event.target.value / 100);
  });

  document.addEventListener("keydown", (event) => {
    const open = document.querySelector(".cell:target .close");
    if (event.key === "Escape" && open) open.click();
  });
  window.addEventListener("hashchange", () => document.querySelector(":target")?.focus({ preventScroll: true }));

  if (!byId("scores")) return;
  const { positives, negatives, threshold: ownThreshold, truePositives, falsePositives } = JSON.parse(byId("scores").textContent);
  const steps = positives.length - 1;
  const sum = (counts, from = 0) => counts.slice(from).reduce((total, count) => total + count, 0);
  const share = (part, whole) => (whole ? (part / whole).toFixed(3) : "–");

  const show = (threshold, tp, fp) => {
    const fn = sum(positives) - tp;
    const tn = sum(negatives) - fp;
    const values = {
      "slider-value": String(Number(threshold.toPrecision(4))),
      "true-positives": tp, "false-positives": fp, "false-negatives": fn, "true-negatives": tn,
      precision: share(tp, tp + fp), recall: share(tp, tp + fn),
      f1: share(2 * tp, 2 * tp + fn + fp), accuracy: share(tp + tn, tp + tn + fn + fp),
    };
    for (const [id, value] of Object.entries(values)) byId(id).textContent = value;
    const mark = byId("mark");
    const left = Number(mark.dataset.left);
    mark.setAttribute("transform", `translate(${left + threshold * (mark.dataset.right - left)} 0)`);
  };
  byId("slider").addEventListener("input", (event) => {
    const index = Math.round(event.target.value * steps); // scores above index / steps are in the bins after it
    show(index / steps, sum(positives, index + 1), sum(negatives, index + 1));
  });
  byId("model-threshold").addEventListener("click", () => {
    byId("slider").value = ownThreshold;
    show(ownThreshold, truePositives, falsePositives);
  });
})();
