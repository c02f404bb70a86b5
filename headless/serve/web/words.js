/* The texts of the page in the reader's language: en.json, zh.json and zh-TW.json, which is made from zh.json. */
export const $ = id => document.getElementById(id);

const LANGUAGES = { en: "en", zh: "zh-CN", "zh-TW": "zh-TW" }; // name -> attribute lang
const texts = {};
const listeners = [];
let language = stored("language") || spoken(navigator.language);

function spoken(locale) {
  if (/^zh-(TW|HK|MO|Hant)/i.test(locale)) return "zh-TW";
  return locale.startsWith("zh") ? "zh" : "en";
}

/* What the browser keeps; null where it keeps nothing for this page. */
export function stored(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}
export function store(name, value) {
  try { localStorage.setItem(name, value); } catch { /* it is full or refused: the page works without */ }
}

/* The text of a name; {0}, {1} are the values. */
export function t(name, ...values) {
  return texts[language][name].replace(/\{(\d)\}/g, (_, k) => values[k]);
}
export const has = name => name in texts[language];

/* Calls a function now and whenever the language changes. */
export function speaking(listener) {
  listeners.push(listener);
  listener();
}
function speak() {
  document.documentElement.lang = LANGUAGES[language];
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  $("language").value = language;
  for (const listener of listeners) listener();
}
export async function load_words() {
  for (const name in LANGUAGES) texts[name] = await (await fetch(`page/${name}.json`)).json();
  if (!(language in texts)) language = "en";
  speak();
  $("language").onchange = () => {
    language = $("language").value;
    store("language", language);
    speak();
  };
}

/* Says a sentence to screen readers. */
export function announce(text) {
  $("live").textContent = text;
}

/* An element with its properties and children. */
export function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
