// Tables and positions for TOPCAT, Aladin and others: XML-RPC to the SAMP hub of this machine, by SAMP's Web Profile.
import { announce, errorMessage } from "./page.js";

const HUB = "http://localhost:21012/", REGISTER_MS = 120_000, CALL_MS = 30_000; // registering asks the user
const DELIVERY_MS = 1000; // hubs deliver in threads, and drop a message whose sender has left
const NAMES = { "table.load.votable": "reads tables", "coord.pointAt.sky": "goes to positions" };

const escape = (text) => text.replace(/[<&>]/g, (char) => `&#${char.charCodeAt()};`);
const encode = (value) => `<value>${typeof value === "string" ? `<string>${escape(value)}</string>`
  : `<struct>${Object.entries(value).map(([name, part]) => `<member><name>${name}</name>${encode(part)}</member>`).join("")}</struct>`}</value>`;
const decode = (value) => {
  const part = value.firstElementChild, children = (element) => [...element.children];
  if (part?.tagName === "struct") return Object.fromEntries(children(part).map(({ children: [name, inner] }) => [name.textContent, decode(inner)]));
  if (part?.tagName === "array") return children(part.firstElementChild).map(decode);
  return value.textContent;
};

const call = async (method, ...parameters) => {
  const body = `<?xml version="1.0"?><methodCall><methodName>samp.webhub.${method}</methodName>`
    + `<params>${parameters.map((value) => `<param>${encode(value)}</param>`).join("")}</params></methodCall>`;
  const signal = AbortSignal.timeout(method === "register" ? REGISTER_MS : CALL_MS);
  const response = await fetch(HUB, { method: "POST", headers: { "Content-Type": "text/xml" }, body, signal }).catch((error) => {
    throw new Error(error.name === "TimeoutError" ? "the SAMP hub does not answer" : "no SAMP hub runs on this machine: start TOPCAT or Aladin");
  });
  const answer = new DOMParser().parseFromString(await response.text(), "text/xml");
  const value = answer.querySelector("methodResponse > fault > value, methodResponse > params > param > value");
  if (!value) throw new Error("what answers is no SAMP hub");
  if (value.parentElement.tagName === "fault") throw new Error(decode(value).faultString);
  return decode(value);
};

// Sends a message to all programs that understand it; the names of these.
const send = async (type, parameters) => {
  const { "samp.private-key": key } = await call("register", { "samp.name": "astrodetect" });
  try {
    await call("declareMetadata", key, { "samp.name": "astrodetect", "samp.description.text": "Unusual objects and scores of images of the sky" });
    const programs = Object.keys(await call("getSubscribedClients", key, type));
    const names = await Promise.all(programs.map(async (program) => (await call("getMetadata", key, program))["samp.name"] ?? program));
    if (programs.length) {
      await call("notifyAll", key, { "samp.mtype": type, "samp.params": await parameters() });
      await new Promise((done) => { setTimeout(done, DELIVERY_MS); });
    }
    return names;
  } finally {
    await call("unregister", key).catch(() => {}); // the hub has ended
  }
};

const table = async ({ url, link, name }) => {
  if (link) { // reading needs a key: a URL that holds for a while without one
    const response = await fetch(link, { method: "POST" }), text = await response.text();
    if (!response.ok) throw new Error(errorMessage(response.status, text));
    url = JSON.parse(text).url;
  }
  url = new URL(url, location).href;
  return { url, "table-id": url, name };
};

// Served disabled: a click before this script is there would be lost.
document.addEventListener("htmx:load", ({ target }) => {
  for (const button of target.querySelectorAll("button[data-samp]")) button.disabled = false;
});

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("button[data-samp]");
  if (!button) return;
  const { samp: type, ra, dec, ...options } = button.dataset;
  button.disabled = true;
  announce("Asking the SAMP hub of this machine: it may ask you in turn.");
  try {
    const names = await send(type, async () => ra ? { ra, dec } : table(options));
    announce(names.length ? `Sent to ${names.sort().join(", ")}.` : `No program at the SAMP hub ${NAMES[type]}: start TOPCAT or Aladin.`);
  } catch (error) {
    announce(`Not sent: ${error.message}`);
  } finally {
    button.disabled = false;
  }
});
