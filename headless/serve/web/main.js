/* The page: puts the form, the list of jobs and the server together. */
import { asked, set_key } from "./api.js";
import { add_picture, clear_failures, fail, fill, load_facts, load_offers, only_picture, settings, show_failure, with_pictures } from "./form.js";
import { add_job, on_actions, restore_jobs, retry } from "./jobs.js";
import { $, announce, load_words, t } from "./words.js";

const narrow = matchMedia("(max-width: 56rem)");

/* drawing: the button stays usable, a second job waits behind the first */
let sending = false;
$("form").onsubmit = async event => {
  event.preventDefault();
  if (sending) return;
  sending = true;
  clear_failures();
  $("draw").textContent = t("sending");
  try {
    const body = settings(), image = await with_pictures(body);
    const job = await asked("POST", "v1/jobs", image);
    if ($("fresh").checked) $("seed").value = job.seed;
    add_job(job, { ...body, pictures: Boolean(image.image || image.control) });
    if (narrow.matches) {
      $("shows").scrollIntoView();
      $("shows").focus({ preventScroll: true });
    }
  } catch (error) {
    show_failure(error);
  }
  $("draw").textContent = t("draw");
  sending = false;
};
$("prompt").onkeydown = event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
};
const fresh = () => { $("seed").readOnly = $("fresh").checked; };
$("fresh").onchange = fresh;

/* pictures that are dropped or pasted anywhere */
const images = data => [...(data?.files || [])].filter(file => file.type.startsWith("image/"));
document.addEventListener("paste", async event => {
  const files = images(event.clipboardData);
  if (files.length) event.preventDefault();
  for (const file of files) await add_picture(file);
});
document.addEventListener("dragover", event => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", async event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  for (const file of images(event.dataTransfer)) await add_picture(file);
});

/* the key */
async function use_key() {
  set_key($("key").value.trim());
  try {
    await load_offers();
    fail("key", "");
    $("keyfield").hidden = true;
    retry();
    $("prompt").focus();
  } catch (error) {
    show_failure(error);
  }
}
$("usekey").onclick = use_key;
$("key").onkeydown = event => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  use_key();
};

on_actions(async blob => {
  await only_picture(blob);
  $("prompt").value = "";
  $("prompt").focus();
}, (body, seed) => {
  fill(body, seed);
  fresh();
  $("prompt").focus();
  announce(t(body.pictures ? "backwithout" : "back"));
});
await load_words();
await load_facts();
fresh();
restore_jobs();
await load_offers().catch(error => { if (error.status === 401) $("key").focus(); else show_failure(error); });
