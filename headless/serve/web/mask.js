/* The picture that is changed and its mask.

The mask is a list of strokes in parts of the picture's sides, so that undo replays all but the last and
another size keeps them. It is drawn on a canvas of its own above the picture: what is opaque is changed. */
import { $, announce, speaking, t } from "./words.js";

const COLOUR = "#e5342a";
const SIDES = [2048, 1536, 1328, 1024, 768, 512, 384, 256, 128];
const photo = $("photo"), paint = $("paint"), pen = paint.getContext("2d", { willReadFrequently: true });
let original = null, strokes = [], live = null, most = 2048 * 2048, usual = 0;

export const has_photo = () => original !== null;

/* most: pixels that the server takes; usual: the longest side to begin with, 0 = as it is. */
export function limit(pixels, side) {
  [most, usual] = [pixels, side];
  if (original && !strokes.length) begin();
}
export function set_photo(bitmap) {
  [original, strokes] = [bitmap, []];
  $("masking").hidden = bitmap === null;
  if (bitmap === null) return;
  begin();
}
function begin() {
  sides();
  resize();
}
function sides() {
  const { width, height } = original, long = Math.max(width, height), fits = width * height <= most;
  const shorter = SIDES.filter(side => side < long && scaled(side).reduce((a, b) => a * b) <= most);
  const options = shorter.map(side => new Option(scaled(side).join(" × "), side));
  if (fits || !options.length) options.unshift(new Option(t("asis", width, height), long));
  $("side").replaceChildren(...options);
  const chosen = [long, ...shorter].find(side => usual && side <= usual) || options[0].value;
  $("side").value = chosen;
}
function scaled(side) {
  const { width, height } = original, by = side / Math.max(width, height);
  return [width, height].map(one => Math.max(1, Math.round(one * by)));
}
function resize() {
  const [width, height] = scaled(Number($("side").value));
  for (const canvas of [photo, paint]) Object.assign(canvas, { width, height });
  $("brush").style.width = `min(100%, ${Math.round(55 * width / height)}vh)`;
  const brush = photo.getContext("2d");
  brush.imageSmoothingQuality = "high";
  brush.drawImage(original, 0, 0, width, height);
  replay();
}
$("side").onchange = resize;

function replay() {
  pen.clearRect(0, 0, paint.width, paint.height);
  for (const stroke of strokes) apply(stroke);
  $("undo").disabled = $("clear").disabled = !strokes.length;
}
function apply(stroke) {
  const { width, height } = paint;
  pen.globalCompositeOperation = { erase: "destination-out", invert: "xor" }[stroke.kind] || "source-over";
  pen.fillStyle = pen.strokeStyle = COLOUR;
  if (stroke.points) {
    const points = stroke.points.map(([x, y]) => [x * width, y * height]);
    Object.assign(pen, { lineCap: "round", lineJoin: "round", lineWidth: stroke.broad * width });
    pen.beginPath();
    pen.moveTo(...points[0]);
    for (const point of points) pen.lineTo(...point);
    pen.stroke();
  } else if (stroke.file) {
    pen.drawImage(stroke.file, 0, 0, width, height);
  } else {
    const [x, y, across, down] = stroke.box || [0, 0, 1, 1];
    pen.fillRect(x * width, y * height, across * width, down * height);
  }
  pen.globalCompositeOperation = "source-over";
}
function add(stroke) {
  strokes.push(stroke);
  replay();
}
$("whole").onclick = () => add({ kind: "paint" });
$("invert").onclick = () => add({ kind: "invert" });
$("undo").onclick = () => { strokes.pop(); replay(); };
$("clear").onclick = () => { strokes = []; replay(); };
$("erase").onclick = () => $("erase").setAttribute("aria-pressed", $("erase").getAttribute("aria-pressed") !== "true");
speaking(() => { if (original) sides_keep(); });
function sides_keep() {
  const side = $("side").value;
  sides();
  $("side").value = side;
}

/* the brush */
function at(event) {
  const box = paint.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
paint.onpointerdown = event => {
  if (event.button) return;
  paint.setPointerCapture(event.pointerId);
  const kind = $("erase").getAttribute("aria-pressed") === "true" ? "erase" : "paint";
  live = { kind, points: [at(event)], broad: $("broad").value / paint.getBoundingClientRect().width };
  add(live);
};
paint.onpointermove = event => {
  if (!live) return;
  live.points.push(at(event));
  apply({ ...live, points: live.points.slice(-2) });
};
paint.onpointerup = paint.onpointercancel = () => { live = null; };

/* without a brush */
$("mark").onclick = () => {
  const [x, y, across, down] = ["left", "top", "across", "down"].map(id => $(id).value === "" ? NaN : Number($(id).value));
  const { width, height } = paint;
  const right = [x, y, across, down].every(Number.isInteger) && x >= 0 && y >= 0 && across > 0 && down > 0;
  const fits = right && x + across <= width && y + down <= height;
  $("mask-error").hidden = fits;
  if (!fits) {
    $("mask-error").textContent = t("norectangle", width, height);
    return announce($("mask-error").textContent);
  }
  add({ kind: "paint", box: [x / width, y / height, across / width, down / height] });
  announce(t("marked"));
};
$("maskfile").onchange = async () => {
  const file = $("maskfile").files[0];
  if (!file) return;
  try {
    add({ kind: "paint", file: as_mask(await createImageBitmap(file)) });
    $("mask-error").hidden = true;
    announce(t("marked"));
  } catch {
    $("mask-error").textContent = t("unread", file.name);
    $("mask-error").hidden = false;
  }
};

/* A canvas that is opaque where a picture is transparent; of one without transparency, where it is white. */
function as_mask(bitmap) {
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  const brush = canvas.getContext("2d");
  brush.drawImage(bitmap, 0, 0);
  const image = brush.getImageData(0, 0, canvas.width, canvas.height), data = image.data;
  let clear = false;
  for (let k = 3; k < data.length; k += 4) clear ||= data[k] < 255;
  for (let k = 0; k < data.length; k += 4) {
    const light = 0.299 * data[k] + 0.587 * data[k + 1] + 0.114 * data[k + 2];
    [data[k], data[k + 1], data[k + 2], data[k + 3]] = [229, 52, 42, clear ? 255 - data[k + 3] : light];
  }
  brush.putImageData(image, 0, 0);
  return canvas;
}

export function thumbnail() {
  const by = 160 / Math.max(photo.width, photo.height), canvas = document.createElement("canvas");
  Object.assign(canvas, { width: Math.ceil(photo.width * by), height: Math.ceil(photo.height * by) });
  canvas.getContext("2d").drawImage(photo, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
}

/* What is sent: the picture, and the mask (null where nothing is marked) in white on black. */
export const photo_png = () => photo.toDataURL("image/png");
export function mask_png() {
  const data = pen.getImageData(0, 0, paint.width, paint.height).data;
  let marked = false;
  for (let k = 3; k < data.length && !marked; k += 4) marked = data[k] > 0;
  if (!marked) return null;
  const canvas = Object.assign(document.createElement("canvas"), { width: paint.width, height: paint.height });
  const brush = canvas.getContext("2d");
  brush.drawImage(paint, 0, 0);
  for (const [mode, colour] of [["source-in", "#fff"], ["destination-over", "#000"]]) {
    Object.assign(brush, { globalCompositeOperation: mode, fillStyle: colour });
    brush.fillRect(0, 0, canvas.width, canvas.height);
  }
  return canvas.toDataURL("image/png");
}
