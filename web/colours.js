// Colours of our sockets and wires. Models have those of the core's models in whatever palette is
// chosen, so that both kinds of graph read alike.

const AS_CORE = {
  INKSTONE_MODEL: "MODEL",
  INKSTONE_TEXT_ENCODER: "CLIP",
  INKSTONE_VAE: "VAE",
  INKSTONE_CONTROL: "CONTROL_NET",
};
// [on dark, on light]; the core has no such sockets
const OWN = {
  INKSTONE_LORA: ["#8c9eff", "#3949ab"], // beside the violet of MODEL, which it changes
  INKSTONE_STITCH: ["#4dd0c4", "#00796b"], // between the blue of IMAGE and the green of MASK
};

/** {socket type: colour} in the palette that is shown. */
function colours(byType) {
  const light = getComputedStyle(document.documentElement).colorScheme === "light" ? 1 : 0;
  const all = {};
  for (const [type, core] of Object.entries(AS_CORE)) if (byType[core]) all[type] = byType[core];
  for (const [type, pair] of Object.entries(OWN)) all[type] = pair[light];
  return all;
}

function colour(app) {
  const canvas = app.canvas;
  const style = document.documentElement.style;
  const links = canvas.constructor.link_type_colors;
  for (const [type, value] of Object.entries(colours(canvas.default_connection_color_byType))) {
    canvas.default_connection_color_byType[type] = links[type] = value; // the classic canvas
    const name = `--color-datatype-${type}`; // the newer nodes
    if (style.getPropertyValue(name) !== value) style.setProperty(name, value);
  }
  canvas.setDirty(true, true);
}

/** Colours our sockets now and whenever a palette is chosen, which blanks what it does not know.
 *
 * A palette writes into the style of the document, in every page; pages have no event for it.
 */
export function keepColours(app) {
  const again = () => colour(app);
  const watch = new MutationObserver(again);
  watch.observe(document.documentElement, { attributes: true, attributeFilter: ["style"] });
  watch.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  again();
}
