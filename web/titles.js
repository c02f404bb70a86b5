// Makes a new node of ours wide enough for its title.
//
// The classic canvas leaves a square free on both sides of a title, but makes a node only 40 pixels
// wider than its title: what has no widgets, such as Decode, would show its name cut.

const pen = document.createElement("canvas").getContext("2d");

/** The hook nodeCreated. Saved nodes keep their size: it is set after this. */
export function fitTitle(node) {
  if (!node.constructor.comfyClass?.startsWith("Inkstone")) return;
  pen.font = node.titleFontStyle;
  const free = 2 * node.constructor.title_height || 60;
  const width = Math.ceil(pen.measureText(node.getTitle()).width) + free;
  if (node.size[0] < width) node.setSize([width, node.size[1]]);
}
