/* The list of this browser's jobs, and the result that is shown.

Ids and settings are kept in localStorage, so that the list survives a reload; what the server has forgotten
leaves it. The events of the oldest open jobs are followed, the others are looked up now and then. */
import { asked, Failure, follow } from "./api.js";
import { graph_of } from "./png.js";
import { $, announce, element, speaking, store, stored, t } from "./words.js";

const MOST = 50, FOLLOWED = 2, LOOK = 2500; // jobs kept; streams at a time; milliseconds
let jobs = [], shown = null, number = 0, picked = false; // picked: the reader chose what is shown
const followed = new Set();
const over = job => ["done", "failed", "cancelled"].includes(job.state);
const title = job => job.settings.prompt || t("untitled");
const address = (job, k) => job.files[k].split("/").slice(-4).join("/"); // v1/files/ID/NAME, below any prefix

function keep() {
  const lasting = jobs.map(({ id, settings, state, seed, files, error }) => ({ id, settings, state, seed, files, error }));
  store("jobs", JSON.stringify(lasting.slice(0, MOST)));
}

/* A job that the server has accepted. settings: what asked for it, without pictures. */
export function add_job(state, settings) {
  const job = { ...state, settings };
  jobs.unshift(job);
  picked = false;
  if (!shown || over(shown)) [shown, number] = [job, 0];
  render();
  tend();
}
export function restore_jobs() {
  try { jobs = JSON.parse(stored("jobs") || "[]"); } catch { jobs = []; }
  shown = jobs.find(job => !over(job)) || jobs.find(job => job.state === "done") || null;
  tend();
  speaking(render);
  setInterval(look, LOOK);
  for (const job of jobs) if (over(job)) refresh(job);
}
export function retry() {
  for (const job of jobs) refresh(job);
  tend();
}

function tend() {
  keep();
  const open = jobs.filter(job => !over(job)).reverse();
  for (const job of open.slice(0, FOLLOWED)) if (!followed.has(job.id)) watch(job);
}
async function watch(job) {
  followed.add(job.id);
  try {
    await follow(job.id, state => update(job, state), () => { job.lost = true; render(); });
  } catch (error) {
    if (error.status === 404) forget(job);
  }
  followed.delete(job.id);
  if (over(job) || !jobs.includes(job)) tend();
}
function look() {
  if (document.hidden) return;
  for (const job of jobs) if (!over(job) && !followed.has(job.id)) refresh(job);
}
async function refresh(job) {
  try {
    update(job, await asked("GET", `v1/jobs/${job.id}`));
  } catch (error) {
    if (error instanceof Failure && error.status === 404) forget(job);
  }
}
function forget(job) {
  jobs = jobs.filter(one => one !== job);
  cards.delete(job.id);
  if (shown === job) shown = null;
  keep();
  render();
}
function update(job, state) {
  const before = { ...job };
  Object.assign(job, state, { lost: false, preview: state.preview || (over(state) ? null : job.preview) });
  tell(job, before);
  if (job.state !== before.state) keep();
  const finished = job.state === "done" && before.state !== "done", starts = job.preview && !before.preview;
  if (finished || (starts && !over(job))) lead(job);
  render();
}

/* Shows a job that has something new, unless the reader looks at another result or one is being drawn. */
function lead(job) {
  const busy = shown && shown !== job && shown.state === "running" && shown.preview;
  if (!picked && !busy) [shown, number] = [job, 0];
}

/* Only what matters is said to screen readers: not each step. */
function tell(job, before) {
  const half = job.steps > 1 && job.step >= job.steps / 2 && before.step < job.steps / 2;
  if (job.state !== before.state || job.place !== before.place) {
    if (job.state !== "running") announce(`${sentence(job)}: ${title(job)}`);
    else if (before.state !== "running") announce(t("began"));
  } else if (half) {
    announce(t("halfway"));
  }
}
function sentence(job) {
  if (job.lost) return t("lost");
  if (job.stopping && !over(job)) return t("stopping");
  if (job.state === "queued") return t("queued", job.place || "…");
  if (job.state === "running") return job.steps ? t("running", job.step, job.steps) : t("preparing");
  return job.state === "failed" ? t("failed", job.error) : t(job.state, job.seed);
}

/* the list: a card of a job is made once and then filled, so that clicks and the focus survive a step */
const cards = new Map();
function render() {
  const items = jobs.map(job => fill(job, cards.get(job.id) || card(job)));
  if (items.some((item, k) => $("jobs").children[k] !== item) || items.length !== $("jobs").children.length) $("jobs").replaceChildren(...items);
  $("nojobs").hidden = jobs.length > 0;
  $("tidy").hidden = !jobs.some(over);
  render_result();
}
function card(job) {
  const show = () => { [shown, number, picked] = [job, 0, true]; render(); };
  const name = element("button", { type: "button", className: "name", onclick: show }), state = element("p", { className: "state" });
  const button = element("button", { type: "button", className: "act", onclick: () => over(job) ? remove(job) : stop(job) });
  const bar = element("progress", { max: 1, value: 0 }), thumbs = element("div", { className: "thumbs" });
  const item = element("li", {}, element("div", {}, name, state), button, bar, thumbs);
  const parts = { item, name, state, button, bar, thumbs };
  cards.set(job.id, parts);
  return parts;
}
function fill(job, { item, name, state, button, bar, thumbs }) {
  const act = over(job) ? "remove" : "stop";
  item.className = job.state;
  name.textContent = title(job);
  name.setAttribute("aria-current", job === shown);
  state.textContent = sentence(job);
  button.textContent = t(act);
  button.setAttribute("aria-label", t(act + "one", title(job)));
  button.setAttribute("aria-disabled", Boolean(job.stopping));
  bar.hidden = job.state !== "running";
  bar.value = job.steps ? job.step / job.steps : 0;
  bar.setAttribute("aria-label", `${t("progress")}: ${title(job)}`);
  if (job.state === "done" && !thumbs.children.length) thumbs.append(...job.files.map((_, k) => thumb(job, k)));
  [...thumbs.children].forEach((node, k) => {
    node.setAttribute("aria-label", t("showone", k + 1, title(job)));
    node.setAttribute("aria-current", job === shown && k === number);
  });
  return item;
}
function thumb(job, k) {
  const image = element("img", { src: address(job, k), alt: "", loading: "lazy", onerror: () => refresh(job) });
  return element("button", { type: "button", onclick: () => { [shown, number, picked] = [job, k, true]; render(); } }, image);
}
async function stop(job) {
  if (job.stopping) return;
  job.stopping = true;
  render();
  try {
    update(job, await asked("DELETE", `v1/jobs/${job.id}`));
  } catch (error) {
    if (error.status === 404) forget(job);
  }
  job.stopping = false;
  render();
}
async function remove(job) {
  forget(job);
  $("line").tabIndex = -1;
  $("line").focus();
  await asked("DELETE", `v1/jobs/${job.id}`).catch(() => {});
}
$("tidy").onclick = () => { for (const job of jobs.filter(over)) remove(job); };

/* the result */
function render_result() {
  const done = shown?.state === "done", source = done ? address(shown, number) : shown?.preview;
  $("view").hidden = Boolean(shown) && over(shown) && !done;
  $("empty").hidden = Boolean(shown);
  $("image").hidden = !source;
  $("wait").toggleAttribute("hidden", !shown || Boolean(source) || over(shown));
  if (source && $("image").getAttribute("src") !== source) $("image").src = source;
  $("image").alt = shown ? t(done ? "drawn" : "preview", title(shown)) : "";
  $("status").textContent = shown ? sentence(shown) : "";
  $("status").className = shown?.state === "failed" ? "bad" : "";
  const notes = shown?.notes || [];
  $("notes").hidden = !notes.length;
  $("notes").replaceChildren(...notes.map(note => element("li", { textContent: note })));
  $("bar").hidden = shown?.state !== "running";
  $("bar").value = shown?.steps ? shown.step / shown.steps : 0;
  document.title = shown?.state === "running" && shown.steps ? `${shown.step}/${shown.steps} · Inkstone` : "Inkstone";
  $("bar").setAttribute("aria-label", t("progress"));
  $("actions").hidden = !shown || !over(shown);
  for (const id of ["save", "edit", "graph"]) $(id).hidden = !done;
  $("graphhint").hidden = !done;
  if (done) Object.assign($("save"), { href: source, download: `inkstone_${shown.seed + number}.png` });
}
async function result() {
  return (await fetch(address(shown, number))).blob();
}

/* What a page does with the result: on_edit gets its blob, on_again the settings and the seed. */
export function on_actions(on_edit, on_again) {
  $("edit").onclick = async () => on_edit(await result());
  $("again").onclick = () => on_again(shown.settings, shown.seed);
  $("graph").onclick = async () => {
    const text = await graph_of(await (await result()).arrayBuffer());
    if (text === null) return announce(t("nograph"));
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: `inkstone_${shown.seed + number}.json` });
    link.click();
    URL.revokeObjectURL(link.href);
  };
}
