// The menu entries: "Use Inkstone loaders" exchanges the loaders of the open graph, "Check this
// graph" says what is missing and what memory it needs. The server computes both from the graph that
// is sent (headless/workflow/page.py); it reads no other and writes none.

import { text } from "./words.js";

/** Posts the graph; the answer, or null after saying what is wrong. */
async function ask(app, api, path, body) {
  let fault = text("unreachable");
  try {
    const response = await api.fetchApi(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const answer = await response.json();
    if (response.ok) return answer;
    fault = answer.error ?? fault;
  } catch (error) {
    console.error("Inkstone:", error); // no server, or no JSON: the sentence above says so
  }
  say(app, "error", text("failed"), [fault]);
  return null;
}

function say(app, severity, title, lines) {
  const detail = lines.join("\n");
  app.extensionManager.toast.add({ severity, summary: title, detail, life: 60_000 });
}

/** Puts a changed graph in the place of the open one, as one step that can be undone. */
async function replaceGraph(app, changed) {
  const workflow = app.extensionManager.workflow.activeWorkflow;
  const tracker = workflow?.changeTracker;
  const capture = () => (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
  capture(); // what was changed before is a step of its own
  (app.rootGraph ?? app.graph).configure(changed);
  capture();
  app.canvas.setDirty(true, true);
}

export function commands(app, api) {
  const root = () => app.rootGraph ?? app.graph;
  return [
    {
      id: "Inkstone.UseLoaders",
      label: text("use"),
      icon: "pi pi-sync",
      async function() {
        const workflow = root().serialize();
        const answer = await ask(app, api, "/inkstone/exchange", { workflow });
        if (!answer) return;
        const exchanged = answer.lines.filter((line) => line.includes(" -> ")).length;
        if (exchanged) await replaceGraph(app, answer.workflow);
        say(app, exchanged ? "success" : "info", text("exchanged", exchanged), answer.lines);
      },
    },
    {
      id: "Inkstone.Check",
      label: text("check"),
      icon: "pi pi-check-circle",
      async function() {
        const { workflow, output } = await app.graphToPrompt();
        const answer = await ask(app, api, "/inkstone/check", { workflow, output });
        if (!answer) return;
        const title = text(answer.runs ? "runs" : "fails");
        say(app, answer.runs ? "success" : "warn", title, answer.lines);
      },
    },
  ];
}

export const menuCommands = [
  { path: ["Inkstone"], commands: ["Inkstone.UseLoaders", "Inkstone.Check"] },
];
