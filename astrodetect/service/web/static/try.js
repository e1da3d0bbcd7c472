// Try: a card for each image at once and in order, a few requests at a time, every answer in its place.
import { reason, say } from "./page.js";

const AT_ONCE = 6, A_SLICE = 20, PATIENCE_MS = 120_000, TIMEOUT_MS = 60_000, SUM_UP_MS = 10_000, DRAW_MS = 100;
const LARGE_BYTES = 1_000_000; // images beyond it are shown by the service's small picture once there is one
const LONGEST_NAME = 60;
const find = (id) => document.getElementById(id);
const form = find("try"), list = find("cards"), order = find("order"), number = (count) => count.toLocaleString("en");
let jobs = [], waiting = [], heldUntil = 0, heard = 0, drawn = true;
const atWork = new Set();

const plain = (name) => (name.length > LONGEST_NAME ? `${name.slice(0, 39)}…${name.slice(-20)}` : name)
  .replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (sign) => `⟨U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
const pause = () => new Promise((done) => setTimeout(done));

const add = async (files) => {
  if (!files.length) return say("There was no file in it.");
  find("results").hidden = false;
  if (!jobs.length) list.replaceChildren(); // the card of a plain upload
  const alone = !jobs.length && files.length === 1, model = find("model")?.value ?? "";
  for (let begin = 0; begin < files.length; begin += A_SLICE) {
    const some = files.slice(begin, begin + A_SLICE).map((file) => blank({ file, model, alone }));
    list.append(...some.map(({ card }) => card));
    jobs.push(...some);
    if (!begin) some[0].card.scrollIntoView({ block: "nearest" });
    some.forEach(queue);
    await pause();
  }
};

const blank = (job) => {
  job.card = find("blank").content.cloneNode(true).firstElementChild;
  job.url = URL.createObjectURL(job.file);
  job.key = `${Date.now()}-${Math.random()}`; // sent again after a broken line, it is logged once
  job.card.querySelector("bdi").textContent = plain(job.file.name);
  job.card.querySelector("img").src = job.url;
  job.card.querySelector(".again").addEventListener("click", () => queue(job));
  return job;
};

const queue = (job) => {
  Object.assign(job, { failed: false, done: false, refused: 0 });
  delete job.card.dataset.marks;
  const most = Number(form.dataset.largest);
  if (job.file.size >= most) return fail(job, `It has ${number(Math.ceil(job.file.size / 1e6))} MB: this service takes ${number(most / 1e6)} MB at most.`);
  tell(job, "Waiting for its turn");
  waiting.push(job);
  pump();
};

const pump = () => {
  const wait = heldUntil - Date.now();
  if (wait > 0) setTimeout(pump, wait);
  else while (waiting.length && atWork.size < AT_ONCE) send(waiting.shift());
  draw();
};

const send = (job) => {
  const request = job.request = new XMLHttpRequest(), body = new FormData(); // fetch tells nothing of what was sent
  body.append("file", job.file, job.file.name);
  body.append("model", job.model);
  atWork.add(job);
  request.open("POST", "/try");
  request.setRequestHeader("HX-Request", "true");
  request.setRequestHeader("Idempotency-Key", job.key);
  request.timeout = TIMEOUT_MS;
  request.upload.addEventListener("progress", ({ loaded, total }) => tell(job, "Sending", loaded / total));
  request.upload.addEventListener("load", () => tell(job, "Looking at it", 1));
  request.addEventListener("loadend", () => { atWork.delete(job); settle(job, request); pump(); });
  tell(job, "Sending");
  request.send(body);
};

const settle = (job, request) => {
  if (request.status === 200) return answer(job, request.response);
  if (job.failed || !job.card.isConnected) return; // it was stopped
  const why = request.status ? reason(request.status, request.response) : "the line broke before an answer came, or the file has changed";
  const wait_s = request.status === 503 ? Number(request.getResponseHeader("Retry-After")) : 0;
  job.refused ||= Date.now();
  if (!wait_s || Date.now() - job.refused > PATIENCE_MS) return fail(job, why);
  tell(job, `Waits: ${why}`);
  heldUntil = Math.max(heldUntil, Date.now() + 1000 * wait_s);
  waiting.unshift(job);
};

const tell = ({ card }, words, share = 0) => {
  card.querySelector(".doing").textContent = words;
  card.querySelector(".doing").classList.remove("problem");
  card.querySelector("progress").value = share;
  card.querySelector("progress").hidden = false;
  card.querySelector(".again").hidden = true;
};

const fail = (job, why) => {
  tell(job, why[0].toUpperCase() + why.slice(1));
  job.failed = true;
  job.card.querySelector(".doing").classList.add("problem");
  job.card.querySelector("progress").hidden = true;
  job.card.querySelector(".again").hidden = false;
  job.card.dataset.marks = "failed";
  draw();
};

const answer = (job, html) => {
  const { card } = job, made = document.createElement("template"), focused = card.contains(document.activeElement);
  made.innerHTML = html; // by the service, which has escaped what comes from outside
  const seen = made.content.querySelector(".seen"), told = made.content.querySelector(".told"), picture = seen.querySelector("image");
  if (picture && !job.blind && (job.alone || job.file.size < LARGE_BYTES)) {
    picture.dataset.kept = picture.getAttribute("href");
    picture.setAttribute("href", job.url);
  }
  if (job.alone) told.querySelector("details").open = true;
  card.querySelector(".told").replaceWith(told);
  if (picture || job.blind) card.querySelector(".seen").replaceWith(seen);
  if (picture && !picture.dataset.kept) URL.revokeObjectURL(job.url);
  Object.assign(job, { done: true, failed: false, novelty: Number(told.dataset.novelty) });
  card.dataset.marks = told.dataset.marks;
  card.classList.toggle("odd", told.dataset.marks.includes("anomaly"));
  htmx.process(card);
  if (focused) told.querySelector("a, button")?.focus();
};

const sort = () => {
  const ordered = order.value ? [...jobs].sort((one, other) => (other.novelty ?? -2) - (one.novelty ?? -2)) : jobs;
  list.append(...ordered.map(({ card }) => card));
};

const draw = () => {
  if (!drawn) return;
  drawn = false;
  setTimeout(() => {
    drawn = true;
    const count = (mark) => jobs.filter(({ card }) => card.dataset.marks?.includes(mark)).length;
    const failed = count("failed"), done = jobs.filter((job) => job.done).length + failed, all = done === jobs.length;
    const odd = count("anomaly"), unusual = count("unusual"), sum = [`${number(done)} of ${number(jobs.length)}`];
    if (odd) sum.push(`${number(odd)} ${odd === 1 ? "anomaly" : "anomalies"}`);
    if (unusual) sum.push(`${number(unusual)} unusual`);
    if (failed) sum.push(`${number(failed)} failed`);
    find("sum").textContent = sum.join(", ");
    find("done").max = Math.max(jobs.length, 1);
    find("done").value = done;
    find("stop").textContent = all ? `Try ${failed === 1 ? "it" : `the ${number(failed)}`} again` : "Stop";
    find("stop").hidden = all && !failed;
    if (all || Date.now() - heard > SUM_UP_MS) { find("heard").textContent = sum.join(", "); heard = Date.now(); }
    if (all && order.value) sort();
    if (all) document.body.dispatchEvent(new Event("tried"));
  }, DRAW_MS);
};

const stop = () => {
  const left = jobs.filter((job) => !job.done);
  if (left.every((job) => job.failed)) return left.forEach(queue);
  waiting = [];
  for (const job of left.filter((one) => !one.failed)) {
    fail(job, "Stopped before it was looked at.");
    job.request?.abort();
  }
};

const within = async (entry) => {
  if (entry instanceof File) return [entry];
  const asked = (ask) => new Promise((done) => ask(done, () => done([])));
  if (entry.isFile) return [await asked((...then) => entry.file(...then))].flat();
  const reader = entry.createReader(), found = [];
  for (let some; (some = await asked((...then) => reader.readEntries(...then))).length;) found.push(...some);
  found.sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  return (await Promise.all(found.filter(({ name }) => !name.startsWith(".")).map(within))).flat();
};

const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  form.classList.toggle("over", hasFiles(event));
  if (hasFiles(event)) event.preventDefault(); // else the browser opens what misses the frame
});
document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || form.classList.remove("over"));
document.addEventListener("drop", async (event) => {
  form.classList.remove("over");
  if (!hasFiles(event)) return;
  event.preventDefault();
  const files = [...event.dataTransfer.items].filter(({ kind }) => kind === "file"); // they are gone after this tick
  add((await Promise.all(files.map((item) => item.webkitGetAsEntry() ?? item.getAsFile()).map(within))).flat());
});
document.addEventListener("paste", ({ clipboardData }) => clipboardData.files.length && add([...clipboardData.files]));
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { value } = event.submitter;
  const image = await fetch(`/samples/${value}`).catch(() => null);
  if (image?.ok) add([new File([await image.blob()], value)]);
  else say("The sample image is gone: load this page again.");
});
find("file").multiple = true;
find("file").addEventListener("change", ({ target }) => {
  add([...target.files]);
  target.value = "";
});
find("stop").addEventListener("click", stop);
find("show").addEventListener("change", ({ target }) => { list.dataset.show = target.value; });
order.addEventListener("change", sort);
list.addEventListener("error", ({ target }) => { // a browser cannot show FITS, say
  const job = jobs.find(({ card }) => card.contains(target));
  if (target.dataset.kept) target.setAttribute("href", target.dataset.kept);
  else if (job) {
    job.blind = true;
    target.parentElement.classList.add("gone");
    target.replaceWith("no preview");
  }
}, true);
