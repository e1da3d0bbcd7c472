// Review as a grid: a listbox of images; a label goes to the selected ones, or else to the one in focus.
import { announce, errorMessage } from "./page.js";

const RENEW_MS = 45_000; // leases last two minutes
const section = document.getElementById("review-grid"), HEADERS = { "HX-Request": "true" };
let tiles = [], current = 0, anchor = 0, turning = false, last = Promise.resolve(), waiting = 0;

const find = (id) => document.getElementById(id);
const isSelected = (tile) => tile.getAttribute("aria-selected") === "true";
const selected = () => tiles.filter(isSelected);
const open = () => tiles.filter((tile) => !tile.dataset.label && !tile.dataset.skipped);
const select = (tile, on) => tile.setAttribute("aria-selected", on);

const describe = (tile) => {
  const { name, why, label, skipped, tags } = tile.dataset;
  const state = label ? `labelled ${label}` : skipped ? "skipped" : why;
  tile.setAttribute("aria-label", [name, state, ...(tags ? [`tagged ${tags}`] : [])].join(", "));
  const role = section.querySelector(`button[value="${CSS.escape(label ?? "")}"]`)?.dataset.role ?? label;
  const chip = (text, kind) => Object.assign(document.createElement("span"), { className: `chip ${kind}`, textContent: text });
  tile.querySelector(".tile-label").replaceChildren(
    ...(label || skipped ? [chip(label || "skipped", ["ordinary", "artefact"].includes(role) ? role : "interesting")] : []),
    ...tags.split("; ").filter(Boolean).map((tag) => chip(tag, "tag")));
};

const moveTo = (index, focus = true) => {
  tiles[current].tabIndex = -1;
  const tile = tiles[current = index];
  tile.tabIndex = 0;
  if (focus) tile.focus();
  find("tile-link").href = `/history/${tile.dataset.id}`;
  find("tile-link").textContent = `Open ${tile.dataset.name}`;
  find("tile-why").textContent = tile.dataset.why;
};

const selectRange = (index) => {
  const [first, end] = [Math.min(anchor, index), Math.max(anchor, index)];
  tiles.forEach((tile, at) => select(tile, at >= first && at <= end));
};

const moveToNextOpen = () => {
  const next = [...tiles.keys()].map((step) => (current + 1 + step) % tiles.length)
    .find((index) => open().includes(tiles[index]));
  anchor = next ?? current;
  if (next !== undefined) moveTo(next);
};

const setUp = () => {
  const list = find("tiles");
  tiles = [...(list?.children ?? [])];
  [current, anchor] = [0, 0];
  if (!list) return;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-multiselectable", "true");
  for (const tile of tiles) {
    tile.setAttribute("role", "option");
    tile.tabIndex = -1;
    select(tile, false);
    describe(tile);
  }
  moveTo(Math.max(0, tiles.indexOf(open()[0])), false);
  anchor = current;
};

const ask = async (path, options) => {
  const response = await fetch(path, { headers: HEADERS, ...options }).catch(() => { throw new Error("The service does not answer."); });
  if (!response.ok) throw new Error(errorMessage(response.status, await response.text()));
  return response;
};
const post = async (path, fields) => (await ask(path, { method: "POST", body: new URLSearchParams(fields) })).json();

const shown = () => tiles.map((tile) => ["shown", tile.dataset.id]);
const renew = async () => {
  if (document.hidden || !tiles.length) return [];
  return post("/review/grid/turn", shown()).catch(() => []); // a later one may succeed
};

const turn = async (again = []) => {
  turning = true;
  try {
    const url = section.dataset.url + again.map((id) => `&again=${id}`).join("");
    section.innerHTML = await (await ask(url)).text();
    setUp();
    if (tiles.length) moveTo(current);
    else section.querySelector("a, button:enabled")?.focus();
  } catch (error) {
    announce(error.message);
  } finally {
    turning = false;
  }
};

// One request after the other: each response sets the cookie of the steps that the next one may undo.
const enqueue = (action) => {
  waiting += 1;
  last = last.then(action).catch((error) => announce(error.message)).finally(() => { waiting -= 1; });
};

const change = (path, fields, chosen, values) => {
  const before = chosen.map((tile) => ({ ...tile.dataset }));
  chosen.forEach((tile) => {
    Object.assign(tile.dataset, values);
    select(tile, false);
    describe(tile);
  });
  if (chosen.includes(tiles[current])) moveToNextOpen();
  const page = tiles;
  enqueue(async () => {
    try {
      const { message, ids } = await post(path, fields);
      announce(message);
      find("undo").disabled = false;
      if (page === tiles && ids.length < chosen.length) await turn(); // another tab has labelled the others
    } catch (error) { // none of them is stored
      chosen.forEach((tile, at) => {
        for (const key of ["label", "skipped"]) delete tile.dataset[key];
        Object.assign(tile.dataset, before[at]);
        describe(tile);
      });
      throw error;
    } finally {
      if (page === tiles && waiting === 1 && !open().length) await turn();
    }
  });
};

const undo = () => enqueue(async () => {
  const { message, ids, tags } = await post("/review/grid/undo", {});
  announce(message);
  const undone = tiles.filter((tile) => ids.includes(Number(tile.dataset.id)));
  if (!tags && undone.length < ids.length) return turn(ids); // of an earlier page
  for (const tile of undone) {
    if (tags) tile.dataset.tags = tags[tile.dataset.id].join("; ");
    else for (const key of ["label", "skipped"]) delete tile.dataset[key];
    describe(tile);
  }
  if (!tags && undone.length) moveTo(anchor = tiles.indexOf(undone[0]));
});

// Tags do not end the review of an image: the selection stays, for a label.
const changeTags = (path, input) => {
  const chosen = selected().length ? selected() : [tiles[current]], tag = input.value;
  if (!tag.trim()) return input.focus();
  input.value = "";
  tiles[current].focus();
  enqueue(async () => {
    const { message, tags } = await post(path, [...chosen.map((tile) => ["chosen", tile.dataset.id]), ["tag", tag]]);
    announce(message);
    find("undo").disabled = false;
    for (const tile of chosen) {
      tile.dataset.tags = tags[tile.dataset.id].join("; ");
      describe(tile);
    }
  });
};

section.addEventListener("submit", (event) => {
  const { submitter, target } = event, path = submitter.getAttribute("formaction") ?? target.getAttribute("action");
  if (submitter.id === "restore-skipped") return; // reloads the page
  event.preventDefault();
  if (submitter.id === "undo") return undo();
  if (turning || !tiles.length) return;
  if (submitter.id.endsWith("-tag")) return changeTags(path, target.elements.tag);
  if (!open().length) return; // a label would go to an image that nobody has seen
  const label = submitter.value || target.elements.own.value.trim().toLowerCase();
  let chosen = selected().length ? selected() : [tiles[current]];
  if (submitter.id === "rest") chosen = open().filter((tile) => !isSelected(tile));
  if (!chosen.length) return;
  const fields = chosen.map((tile) => [submitter.id === "rest" ? "shown" : "chosen", tile.dataset.id]);
  if (submitter.id === "skip") return change(path, fields, chosen, { skipped: "yes" });
  if (!label) return target.elements.own.focus();
  if (!submitter.value) target.elements.own.value = "";
  change(path, [...fields, ["label", label]], chosen, { label });
  if (document.activeElement === target.elements.own) tiles[current].focus();
});

section.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.name === "tag") {
    event.preventDefault(); // or it would press the button of a label
    find("add-tag").click();
  }
  if (!event.target.closest("#tiles") || event.altKey || !tiles.length) return;
  const columns = tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length, end = tiles.length - 1;
  const places = { ArrowLeft: current - 1, ArrowRight: current + 1, ArrowUp: current - columns, ArrowDown: current + columns, Home: 0, End: end };
  if (event.key in places) {
    const index = places[event.key] < 0 || places[event.key] > end ? current : places[event.key];
    if (event.shiftKey) selectRange(index);
    else anchor = index;
    moveTo(index);
  } else if (event.key === " ") {
    select(tiles[current], !isSelected(tiles[anchor = current]));
  } else if (event.key === "Escape") {
    tiles.forEach((tile) => select(tile, false));
  } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
    tiles.forEach((tile) => select(tile, true));
  } else if (event.key === "Enter") {
    find("tile-link").click();
  } else return;
  event.preventDefault();
});

section.addEventListener("click", (event) => {
  const tile = event.target.closest(".review-tile");
  if (!tile) return;
  event.preventDefault(); // the label's checkbox is for browsers without scripts
  const index = tiles.indexOf(tile);
  if (event.shiftKey) selectRange(index);
  else select(tile, !isSelected(tiles[anchor = index]));
  moveTo(index);
});

setUp();
renew().then((taken) => { if (taken.length && open().length === tiles.length) return turn(); });
setInterval(renew, RENEW_MS);
