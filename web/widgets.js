// Hides the widgets that another input of the same node makes meaningless.
//
// The conditions come with the node's definition (nodes/shown.py). Hidden widgets stay in the node,
// in their place: saved graphs and API files hold the same values as without this file.
//
// A hidden widget always has its default. When a choice hides it, it is set back, because what
// cannot be seen must not act; and a widget that a saved graph has set stays in sight, because a
// graph that is only opened must not change.

const KEY = "inkstone_shown";
const INPUT = 1; // LiteGraph.INPUT, which not every page exports under one name

/** {widget name: {ways, fallback}} of a node definition as the server sends it. */
export function rulesOf(definition) {
  const specs = { ...definition.input?.required, ...definition.input?.optional };
  const rules = new Map();
  for (const [name, [, options]] of Object.entries(specs))
    if (options?.[KEY]) rules.set(name, { ways: options[KEY], fallback: options.default });
  return rules;
}

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

const isConnected = (node, name) =>
  node.inputs?.some((slot) => (slot.widget?.name ?? slot.name) === name && slot.link != null);

function holds(node, [name, how, values]) {
  if (how === "unconnected") return !isConnected(node, name);
  const widget = widgetOf(node, name);
  if (!widget || isConnected(node, name)) return true; // its value is only known when it runs
  return values.includes(widget.value) === (how === "among");
}

const applies = (node, ways) => ways.some((way) => way.every((item) => holds(node, item)));

/** Sets every widget back that does not apply any more. */
function setBack(node, rules) {
  for (const [name, { ways, fallback }] of rules) {
    const widget = widgetOf(node, name);
    if (widget && widget.value !== fallback && !applies(node, ways)) widget.value = fallback;
  }
}

const noRow = () => [0, -4]; // the page adds 4 below each widget

/** Hides a widget or shows it. The page of 0.3.64 leaves a hidden widget its row; later ones do not
 * ask it for its size.
 */
function setHidden(widget, hidden) {
  widget.hidden = hidden;
  if (hidden) widget.computeSize ??= noRow;
  else if (widget.computeSize === noRow) delete widget.computeSize;
}

/** Shows and hides. */
function show(node, rules) {
  for (const [name, { ways, fallback }] of rules) {
    const widget = widgetOf(node, name);
    if (!widget) continue;
    const asIs = widget.value === fallback && !isConnected(node, name);
    setHidden(widget, asIs && !applies(node, ways));
  }
}

/** Shows and hides; the node becomes as much lower or higher as its widgets do. */
function refresh(node, rules) {
  const before = node.computeSize()[1];
  show(node, rules);
  const after = node.computeSize()[1];
  if (after === before) return;
  node.setSize([node.size[0], Math.max(after, node.size[1] + after - before)]);
  node.graph?.setDirtyCanvas(true, true);
}

/** A saved node has the size that it was saved with: while its values come in, text boxes call back,
 * and rows that appear would add to it.
 */
function keepSize(node, size) {
  if (!size) return;
  const least = node.computeSize();
  node.setSize([Math.max(size[0], least[0]), Math.max(size[1], least[1])]);
}

/** Runs `then` after a method that the page, or another pack, may have put there. */
function after(object, method, then) {
  const earlier = object[method];
  object[method] = function (...values) {
    const result = earlier?.apply(this, values);
    then(this, ...values);
    return result;
  };
}

/** The hook beforeRegisterNodeDef. */
export function hideUnused(nodeType, definition) {
  const rules = rulesOf(definition);
  if (!rules.size) return;
  const asked = new Set([...rules.values()].flatMap(({ ways }) => ways.flat().map(([name]) => name)));
  const change = (node) => {
    setBack(node, rules);
    refresh(node, rules);
  };
  after(nodeType.prototype, "onNodeCreated", (node) => {
    for (const name of asked) {
      const widget = widgetOf(node, name);
      if (widget) after(widget, "callback", () => change(node));
    }
    refresh(node, rules);
  });
  after(nodeType.prototype, "onConfigure", (node, saved) => {
    show(node, rules);
    keepSize(node, saved?.size);
  });
  after(nodeType.prototype, "onConnectionsChange", (node, kind, index) => {
    const slot = kind === INPUT ? node.inputs?.[index] : undefined;
    if (!slot) return;
    if (asked.has(slot.name)) change(node);
    else if (rules.has(slot.widget?.name)) refresh(node, rules);
  });
}
