// Says on a node what went wrong with it, until the next run, and in the page's message; takes the
// status text of a node away when its work ends, and shows the text that the node made.
//
// The newest page's message says only that a node failed, our sentence is behind a button; the page
// of 0.3.64 says it in a dialog. No page takes an empty status text from the server, and none
// removes the text of a run that was stopped. Of results they show only those of Preview Any.

const STATUS = "$$node-text-preview"; // the page's own widget for it, in every version
const FAULT = "inkstone_fault";
const RESULT = "inkstone_text";
const ENHANCED = "inkstone_enhanced"; // a property: what the pictures of later runs keep
const COLOURS = { [FAULT]: "color: #fff; background: #8b1e1e", [RESULT]: "color: #ddd; background: #222" };
const LINE = 17; // pixels
const LETTER = 7; // pixels of a letter, rather too many: lines are estimated with it
const MOST_LINES = 12; // beyond that it scrolls
const LIFE = 30_000; // milliseconds of a message in the page

const isOurs = (node) => node.type?.startsWith("Inkstone");

/** All nodes of a graph and of the subgraphs in it. */
function* nodesOf(graph) {
  for (const node of graph?._nodes ?? []) {
    yield node;
    if (node.subgraph) yield* nodesOf(node.subgraph);
  }
}

/** The node that the server names, "12" or, in subgraphs, "12:7". */
function nodeOf(graph, id) {
  let node = null;
  for (const part of String(id ?? "").split(":")) {
    node = graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node;
}

/** Runs `change`, which adds or removes a widget; the node becomes as much higher or lower. */
function resized(node, change) {
  const before = node.computeSize()[1];
  const height = node.size[1];
  change();
  const after = node.computeSize()[1];
  node.setSize([node.size[0], Math.max(after, height + after - before)]);
  node.graph?.setDirtyCanvas(true, true);
}

function remove(node, name) {
  const widget = node.widgets?.find((item) => item.name === name);
  if (widget) resized(node, () => node.removeWidget(widget));
}

/** Shows a text on the node, which can be selected and copied. name: FAULT or RESULT. */
function show(node, name, sentence) {
  remove(node, name);
  const element = document.createElement("div");
  element.className = name === FAULT ? "inkstone-fault" : "inkstone-text";
  element.textContent = sentence;
  element.style.cssText = `box-sizing: border-box; height: 100%; overflow: auto; padding: 4px 6px;
    font: 12px/${LINE}px sans-serif; ${COLOURS[name]}; border-radius: 4px;
    white-space: pre-wrap; overflow-wrap: anywhere; user-select: text;`;
  const linesOf = (part) => Math.ceil((part.length * LETTER) / Math.max(60, node.size[0] - 40)) || 1;
  const lines = () => sentence.split("\n").reduce((sum, part) => sum + linesOf(part), 1);
  const height = () => Math.min(lines(), MOST_LINES) * LINE + 12;
  resized(node, () => {
    const options = { serialize: false, hideOnZoom: false, getValue: () => sentence };
    Object.assign(options, { getMinHeight: height, getMaxHeight: height });
    node.addDOMWidget(name, name, element, options).serialize = false; // not a part of the graph
  });
}

/** Says it in the page's message, unless a dialog of the page says it already. */
function announce(app, title, sentence) {
  const dialogs = [...document.querySelectorAll("[role=dialog]")];
  if (dialogs.some((dialog) => dialog.textContent.includes(sentence))) return;
  app.extensionManager.toast.add({
    severity: "error",
    summary: title,
    detail: sentence,
    life: LIFE,
  });
}

function failed(app, detail) {
  const node = nodeOf(app.rootGraph ?? app.graph, detail.node_id);
  const ours = detail.node_type?.startsWith("Inkstone");
  if (!ours && !/(InkstoneError|CallError)$/.test(detail.exception_type ?? "")) return;
  const sentence = String(detail.exception_message ?? "").trim();
  if (!sentence) return;
  const same = node?.type === detail.node_type; // another graph may be open by now
  if (same) show(node, FAULT, sentence);
  const title = same ? node.getTitle() : detail.node_type;
  setTimeout(() => announce(app, title, sentence), 300); // the page's own message comes first
}

/** Shows the text that a node of ours gave; a run that needs it not again gives it once more. */
function made(app, detail) {
  const node = nodeOf(app.rootGraph ?? app.graph, detail.display_node ?? detail.node);
  const { text, enhanced } = detail.output ?? {};
  if (!node || !isOurs(node) || !text?.length) return;
  show(node, RESULT, text.join("\n"));
  if (enhanced?.length) node.setProperty?.(ENHANCED, enhanced[0]);
}

/** Listens to the events of runs. */
export function followRuns(app, api) {
  const nodes = () => [...nodesOf(app.rootGraph ?? app.graph)].filter((node) => node.widgets);
  api.addEventListener("execution_start", () => {
    for (const node of nodes()) remove(node, FAULT);
  });
  api.addEventListener("executing", ({ detail }) => {
    const now = nodeOf(app.rootGraph ?? app.graph, detail?.node ?? detail);
    for (const node of nodes()) if (isOurs(node) && node !== now) remove(node, STATUS);
  });
  api.addEventListener("executed", ({ detail }) => made(app, detail));
  api.addEventListener("execution_error", ({ detail }) => failed(app, detail));
}
