/* The form: what the server offers, rows of LoRAs and controls, pictures, and the order that comes of them. */
import { asked, Failure } from "./api.js";
import * as mask from "./mask.js";
import { $, announce, element, has, speaking, t } from "./words.js";

const TINY = "inkstone-embedded";
const NUMBERS = ["seed", "steps", "cfg"], PARAMS = { image: "picture", images: "picture", loras: "lora", width: "size", height: "size" };
const pictures = []; // after the first, which is the mask's: data URLs
let facts = { pixels: 2048 * 2048, sizes: [] }, loras = [], kinds = [], models = [];

/* --- what the server offers */
export async function load_offers() {
  const [list, files, control] = [await asked("GET", "v1/models"), await asked("GET", "v1/loras"), await asked("GET", "v1/controls")];
  const chosen = $("model").value;
  models = list.data.map(one => one.id);
  $("model").replaceChildren(...models.map(name => new Option(name, name)));
  if (models.includes(chosen)) $("model").value = chosen;
  $("modelfield").hidden = models.length < 2;
  loras = files.data.map(one => one.id);
  $("addlora").hidden = !loras.length;
  $("nolora").hidden = loras.length > 0;
  kinds = control.types;
  $("controlmodel").replaceChildren(new Option(t("own"), ""), ...control.data.map(one => new Option(one.id, one.id)));
  suit_model();
}
export async function load_facts() {
  facts = await (await fetch("page/facts.json")).json();
  $("n").max = facts.pictures;
  $("steps").max = facts.steps;
  speaking(() => { sizes(); texts(); });
}
function suit_model() {
  const tiny = $("model").value === TINY;
  mask.limit(facts.pixels, tiny ? 256 : 0);
  $("tiny").hidden = !tiny;
  sizes();
  examples();
}
$("model").onchange = suit_model;
function sizes() {
  const chosen = $("shape").value, list = $("model").value === TINY ? facts.small : facts.sizes;
  const options = (list || []).map(size => new Option(size.replace("x", " × "), size));
  $("shape").replaceChildren(new Option(t("own"), "auto"), ...options, new Option(t("other"), "other"));
  if ([...$("shape").options].some(one => one.value === chosen)) $("shape").value = chosen;
  own_size();
}
function own_size() {
  $("shapefield").hidden = mask.has_photo(); // the result has the picture's size
  for (const node of document.querySelectorAll(".own")) node.hidden = mask.has_photo() || $("shape").value !== "other";
}
$("shape").onchange = own_size;
function examples() {
  const front = $("model").value === TINY ? "tiny" : "example";
  const buttons = [1, 2, 3].map(k => element("button", { type: "button", textContent: t(front + k), onclick: () => { $("prompt").value = t(front + k); $("prompt").focus(); } }));
  $("examples").replaceChildren(...buttons);
}
function texts() {
  $("prompt").placeholder = t("prompthint");
  if ($("controlmodel").options.length) $("controlmodel").options[0].textContent = t("own");
  for (const id of ["steps", "cfg", "strength"]) $(id).placeholder = t("usual");
  $("paint").setAttribute("aria-label", t("mask"));
  examples();
  list_pictures();
  for (const row of document.querySelectorAll(".lora, .control")) row.name();
}

/* --- rows */
function add_row(place, className, options, labels, ...rest) {
  const select = element("select", {}, ...options.map(name => new Option(name, name)));
  const by = element("input", { type: "number", step: "any", min: -10, max: 10, value: 1 });
  const remove = element("button", { type: "button", textContent: "×" });
  const row = element("div", { className }, select, by, remove, ...rest);
  remove.onclick = () => { row.remove(); $("add" + className).focus(); };
  row.name = () => {
    labels.forEach((name, k) => row.children[k].setAttribute("aria-label", t(name)));
    for (const node of rest) node.speak();
    for (const one of select.options) if (has("kind_" + one.value)) one.textContent = t("kind_" + one.value);
  };
  row.name();
  $(place).append(row);
  $("controlmodelfield").hidden = !$("controls").children.length || $("controlmodel").options.length < 2;
  return row;
}
const add_lora = () => add_row("loras", "lora", loras, ["lora", "loraby", "remove"]);
const add_control = () => add_row("controls", "control", kinds, ["control", "controlby", "remove"], control_picture());
function control_picture() {
  const input = element("input", { type: "file", accept: "image/*" }), name = element("span");
  const drop = element("label", { className: "drop" }, input, name);
  input.onchange = () => { name.textContent = input.files[0] ? input.files[0].name : t("chooseone"); };
  drop.speak = input.onchange;
  return drop;
}
$("addlora").onclick = () => add_lora().children[0].focus();
$("addcontrol").onclick = () => add_control().children[0].focus();
function values_of(row) {
  return [row.children[0].value, Number(row.children[1].value)];
}

/* --- pictures */
export async function add_picture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return fail("picture", t("unread", file.name || "?"));
  }
  fail("picture", "");
  if (mask.has_photo()) pictures.push(await small(bitmap));
  else mask.set_photo(bitmap);
  list_pictures();
  announce(t("added", bitmap.width, bitmap.height));
}
async function small(bitmap) {
  const by = Math.min(1, Math.sqrt(facts.pixels / (bitmap.width * bitmap.height)));
  const canvas = element("canvas", { width: Math.floor(bitmap.width * by), height: Math.floor(bitmap.height * by) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
}
export async function only_picture(file) {
  clear_pictures();
  await add_picture(file);
}
function clear_pictures() {
  pictures.length = 0;
  mask.set_photo(null);
  list_pictures();
}
function list_pictures() {
  const all = mask.has_photo() ? [mask.thumbnail(), ...pictures] : [];
  own_size();
  $("photos").hidden = !all.length;
  $("photos").replaceChildren(...all.map((source, k) => {
    const remove = element("button", { type: "button", textContent: t("remove") });
    remove.setAttribute("aria-label", `${t("remove")}: ${t("photo", k + 1)}`);
    remove.onclick = () => { k ? pictures.splice(k - 1, 1) && list_pictures() : clear_pictures(); $("picture").focus(); };
    return element("li", {}, element("img", { src: source, alt: t("photo", k + 1) }), remove);
  }));
}
$("picture").onchange = async () => {
  for (const file of $("picture").files) await add_picture(file);
  $("picture").value = "";
};

/* --- errors beside the fields */
export function fail(name, text) {
  const place = $(`${name}-error`), field = name === "form" ? null : $(name === "size" ? "shape" : name);
  place.textContent = text;
  place.hidden = !text;
  field?.removeAttribute("aria-invalid");
  if (text && field) field.setAttribute("aria-invalid", "true");
  if (!text) return;
  for (let node = place.parentElement; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  if (field && !field.hidden) field.focus();
}
export function clear_failures() {
  for (const node of document.querySelectorAll(".error:not(#key-error)")) fail(node.id.slice(0, -6), "");
}
export function show_failure(error) {
  if (error.status === 401) return fail("key", $("key").value ? t("wrongkey") : error.message), $("key").focus();
  const name = PARAMS[error.param] || error.param, text = error.status ? error.message : t("unreachable");
  fail(name && $(`${name}-error`) ? name : "form", text);
}

/* --- the order */
function read(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    Object.assign(reader, { onload: () => done(reader.result), onerror: () => failed(reader.error) });
    reader.readAsDataURL(file);
  });
}
/* The body of POST /v1/jobs without its pictures: what is kept in the list. Failure for a wrong field. */
export function settings() {
  const body = { prompt: $("prompt").value, n: Number($("n").value) || 1 };
  if (!body.prompt && !mask.has_photo()) throw new Failure(t("noprompt"), 400, "prompt");
  if ($("model").value) body.model = $("model").value;
  for (const id of NUMBERS) if ($(id).value !== "") body[id] = Number($(id).value);
  if ($("fresh").checked) delete body.seed;
  if ($("negative").value) body.negative = $("negative").value;
  if ($("enhance").checked) body.enhance = true;
  const rows = [...$("loras").children].map(values_of).map(([name, strength]) => ({ name, strength }));
  if (rows.length) body.lora = rows;
  const controls = [...$("controls").children].map(values_of).map(([type, strength]) => ({ type, strength }));
  if (controls.length) body.control = controls;
  if (controls.length && $("controlmodel").value) body.control_model = $("controlmodel").value;
  if (mask.has_photo()) {
    if ($("strength").value !== "") body.strength = Number($("strength").value);
  } else if ($("shape").value !== "auto") {
    body.size = $("shape").value === "other" ? `${$("width").value}x${$("height").value}` : $("shape").value;
  }
  return body;
}
/* The same with its pictures. */
export async function with_pictures(body) {
  const whole = { ...body };
  if (mask.has_photo()) {
    whole.image = [mask.photo_png(), ...pictures];
    const marked = mask.mask_png();
    if (marked) whole.mask = marked;
  }
  const files = [...$("controls").children].map(row => row.querySelector("[type=file]").files[0]);
  if (files.includes(undefined)) throw new Failure(t("nocontrolpicture"), 400, "control");
  if (files.length) whole.control = await Promise.all(body.control.map(async (row, k) => ({ ...row, picture: await read(files[k]) })));
  return whole;
}
/* Fills the form with what settings() gave, and the seed that was drawn with. */
export function fill(body, seed) {
  clear_failures();
  clear_pictures();
  $("prompt").value = body.prompt;
  $("n").value = body.n;
  if (models.includes(body.model)) $("model").value = body.model;
  suit_model();
  $("seed").value = seed ?? body.seed ?? "";
  $("fresh").checked = false;
  for (const id of ["steps", "cfg", "strength", "negative"]) $(id).value = body[id] ?? "";
  $("enhance").checked = Boolean(body.enhance);
  const listed = [...$("shape").options].some(one => one.value === (body.size || "auto"));
  $("shape").value = listed ? body.size || "auto" : "other";
  if (!listed) [$("width").value, $("height").value] = body.size.split("x");
  own_size();
  $("loras").replaceChildren();
  $("controls").replaceChildren();
  for (const { name, strength } of body.lora || []) set_row(add_lora(), name, strength);
  for (const { type, strength } of body.control || []) set_row(add_control(), type, strength);
  $("controlmodel").value = body.control_model || "";
  $("more").open = true;
}
function set_row(row, value, strength) {
  [row.children[0].value, row.children[1].value] = [value, strength];
}
