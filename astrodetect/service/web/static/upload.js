// Try: a card per image, in order; a few requests at a time, each response in its own card.
import { announce, errorMessage, loadHeatMaps } from "./page.js";

const MAX_REQUESTS = 6, CHUNK = 20, RETRY_FOR_MS = 120_000, TIMEOUT_MS = 60_000, ANNOUNCE_MS = 10_000, UPDATE_MS = 100;
const LARGE_BYTES = 1_000_000; // larger files are shown by their thumbnail once there is one
const MAX_NAME_LENGTH = 60;
const find = (id) => document.getElementById(id);
const form = find("upload-form"), list = find("cards"), order = find("order"), format = (count) => count.toLocaleString("en");
let jobs = [], pending = [], resumeAt = 0, announcedAt = -Infinity, updateDue = false;
const active = new Set();

const displayName = (name) => (name.length > MAX_NAME_LENGTH ? `${name.slice(0, 39)}…${name.slice(-20)}` : name)
  .replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `⟨U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
const yieldToBrowser = () => new Promise((resolve) => setTimeout(resolve));

const addFiles = async (files) => {
  if (!files.length) return announce("No file found.");
  find("results").hidden = false;
  if (!jobs.length) list.replaceChildren(); // the card of a plain form's upload
  const single = !jobs.length && files.length === 1, model = find("model")?.value ?? "";
  for (let start = 0; start < files.length; start += CHUNK) {
    const chunk = files.slice(start, start + CHUNK).map((file) => createCard({ file, model, single }));
    list.append(...chunk.map(({ card }) => card));
    jobs.push(...chunk);
    if (!start) chunk[0].card.scrollIntoView({ block: "nearest" });
    chunk.forEach(enqueue);
    await yieldToBrowser();
  }
};

const createCard = (job) => {
  job.card = find("card-template").content.cloneNode(true).firstElementChild;
  job.url = URL.createObjectURL(job.file);
  job.key = `${Date.now()}-${Math.random()}`; // a retry after a broken connection is logged once
  job.card.querySelector("bdi").textContent = displayName(job.file.name);
  job.card.querySelector("img").src = job.url;
  job.card.querySelector(".retry").addEventListener("click", () => enqueue(job));
  return job;
};

const enqueue = (job) => {
  Object.assign(job, { failed: false, done: false, refusedAt: 0 });
  delete job.card.dataset.flags;
  const maxBytes = Number(form.dataset.maxBytes);
  if (job.file.size >= maxBytes) return fail(job, `The file has ${format(Math.ceil(job.file.size / 1e6))} MB; the limit is ${format(maxBytes / 1e6)} MB.`);
  setStatus(job, "Waiting");
  pending.push(job);
  sendPending();
};

const sendPending = () => {
  const wait = resumeAt - performance.now();
  if (wait > 0) setTimeout(sendPending, wait);
  else while (pending.length && active.size < MAX_REQUESTS) send(pending.shift());
  scheduleUpdate();
};

const send = (job) => {
  const request = job.request = new XMLHttpRequest(), body = new FormData(); // fetch reports no upload progress
  body.append("file", job.file, job.file.name);
  body.append("model", job.model);
  active.add(job);
  request.open("POST", "/try");
  request.setRequestHeader("HX-Request", "true");
  request.setRequestHeader("Idempotency-Key", job.key);
  request.timeout = TIMEOUT_MS;
  request.upload.addEventListener("progress", ({ loaded, total }) => setStatus(job, "Uploading", loaded / total));
  request.upload.addEventListener("load", () => setStatus(job, "Classifying", 1));
  request.addEventListener("loadend", () => { active.delete(job); finish(job, request); sendPending(); });
  setStatus(job, "Uploading");
  request.send(body);
};

const finish = (job, request) => {
  if (request.status === 200) return showResult(job, request.response);
  if (job.failed || !job.card.isConnected) return; // stopped by the user
  const reason = request.status ? errorMessage(request.status, request.response) : "the connection broke, or the file has changed";
  const wait_s = request.status === 503 ? Number(request.getResponseHeader("Retry-After")) : 0;
  job.refusedAt ||= performance.now();
  if (!wait_s || performance.now() - job.refusedAt > RETRY_FOR_MS) return fail(job, reason);
  setStatus(job, `Will be sent again: ${reason}`);
  resumeAt = Math.max(resumeAt, performance.now() + 1000 * wait_s);
  pending.unshift(job);
};

const setStatus = ({ card }, text, share = 0) => {
  card.querySelector(".upload-status").textContent = text;
  card.querySelector(".upload-status").classList.remove("problem");
  card.querySelector("progress").value = share;
  card.querySelector("progress").hidden = false;
  card.querySelector(".retry").hidden = true;
};

const fail = (job, reason) => {
  setStatus(job, reason[0].toUpperCase() + reason.slice(1));
  job.failed = true;
  job.card.querySelector(".upload-status").classList.add("problem");
  job.card.querySelector("progress").hidden = true;
  job.card.querySelector(".retry").hidden = false;
  job.card.dataset.flags = "failed";
  scheduleUpdate();
};

const showResult = (job, html) => {
  const { card } = job, template = document.createElement("template"), hadFocus = card.contains(document.activeElement);
  template.innerHTML = html; // rendered and escaped by the service
  const view = template.content.querySelector(".card-image"), details = template.content.querySelector(".card-details");
  const image = view.querySelector("image");
  if (image && !job.unsupported && (job.single || job.file.size < LARGE_BYTES)) {
    image.dataset.thumbnail = image.getAttribute("href");
    image.setAttribute("href", job.url);
  }
  if (job.single) details.querySelector("details").open = true;
  card.querySelector(".card-details").replaceWith(details);
  if (image || job.unsupported) card.querySelector(".card-image").replaceWith(view);
  if (image && !image.dataset.thumbnail) URL.revokeObjectURL(job.url);
  Object.assign(job, { done: true, failed: false, novelty: Number(details.dataset.novelty) });
  card.dataset.flags = details.dataset.flags;
  card.classList.toggle("anomalous", details.dataset.flags.includes("anomaly"));
  htmx.process(card);
  loadHeatMaps(card);
  if (hadFocus) details.querySelector("a, button")?.focus();
};

const sortCards = () => {
  const sorted = order.value ? [...jobs].sort((a, b) => (b.novelty ?? -2) - (a.novelty ?? -2)) : jobs;
  list.append(...sorted.map(({ card }) => card));
};

const scheduleUpdate = () => {
  if (updateDue) return;
  updateDue = true;
  setTimeout(() => {
    updateDue = false;
    const count = (flag) => jobs.filter(({ card }) => card.dataset.flags?.includes(flag)).length;
    const failed = count("failed"), done = jobs.filter((job) => job.done).length + failed, all = done === jobs.length;
    const anomalies = count("anomaly"), unusual = count("unusual"), summary = [`${format(done)} of ${format(jobs.length)}`];
    if (anomalies) summary.push(`${format(anomalies)} ${anomalies === 1 ? "anomaly" : "anomalies"}`);
    if (unusual) summary.push(`${format(unusual)} unusual`);
    if (failed) summary.push(`${format(failed)} failed`);
    find("summary").textContent = summary.join(", ");
    find("progress").max = Math.max(jobs.length, 1);
    find("progress").value = done;
    find("stop").textContent = all ? `Retry ${format(failed)} failed` : "Stop";
    find("stop").hidden = all && !failed;
    if (all || performance.now() - announcedAt > ANNOUNCE_MS) { find("sr-status").textContent = summary.join(", "); announcedAt = performance.now(); }
    if (all && order.value) sortCards();
    if (all) document.body.dispatchEvent(new Event("uploads-done"));
  }, UPDATE_MS);
};

const stopOrRetry = () => {
  const unfinished = jobs.filter((job) => !job.done);
  if (unfinished.every((job) => job.failed)) return unfinished.forEach(enqueue);
  pending = [];
  for (const job of unfinished.filter(({ failed }) => !failed)) {
    fail(job, "Stopped.");
    job.request?.abort();
  }
};

const listFiles = async (entry) => {
  if (entry instanceof File) return [entry];
  const promised = (call) => new Promise((resolve) => call(resolve, () => resolve([])));
  if (entry.isFile) return [await promised((...callbacks) => entry.file(...callbacks))].flat();
  const reader = entry.createReader(), entries = [];
  for (let batch; (batch = await promised((...callbacks) => reader.readEntries(...callbacks))).length;) entries.push(...batch);
  entries.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  return (await Promise.all(entries.filter(({ name }) => !name.startsWith(".")).map(listFiles))).flat();
};

const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  form.classList.toggle("dragging", hasFiles(event));
  if (hasFiles(event)) event.preventDefault(); // otherwise the browser opens a file dropped beside the zone
});
document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || form.classList.remove("dragging"));
document.addEventListener("drop", async (event) => {
  form.classList.remove("dragging");
  if (!hasFiles(event)) return;
  event.preventDefault();
  const items = [...event.dataTransfer.items].filter(({ kind }) => kind === "file"); // valid only during this event
  addFiles((await Promise.all(items.map((item) => item.webkitGetAsEntry() ?? item.getAsFile()).map(listFiles))).flat());
});
document.addEventListener("paste", ({ clipboardData }) => clipboardData.files.length && addFiles([...clipboardData.files]));
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { value } = event.submitter;
  const response = await fetch(`/samples/${value}`).catch(() => null);
  if (response?.ok) addFiles([new File([await response.blob()], value)]);
  else announce("The sample image is not available: reload the page.");
});
find("file").multiple = true;
find("file").addEventListener("change", ({ target }) => {
  addFiles([...target.files]);
  target.value = "";
});
find("model")?.addEventListener("change", ({ target }) => {
  const { formats, accept } = target.selectedOptions[0].dataset;
  find("formats").textContent = formats;
  find("file").accept = accept;
});
find("stop").addEventListener("click", stopOrRetry);
find("show").addEventListener("change", ({ target }) => { list.dataset.show = target.value; });
order.addEventListener("change", sortCards);
list.addEventListener("error", ({ target }) => { // formats that the browser cannot display, such as FITS
  if (target.matches(".heat-map")) return;
  const job = jobs.find(({ card }) => card.contains(target));
  if (target.dataset.thumbnail) target.setAttribute("href", target.dataset.thumbnail);
  else if (job) {
    job.unsupported = true;
    target.parentElement.classList.add("missing");
    target.replaceWith("no preview");
  }
}, true);
