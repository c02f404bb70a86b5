// What ComfyUI's page does for our nodes. Plain modules without a build step; they work in the
// classic canvas and in the newer nodes ("Nodes 2.0"), from the page of ComfyUI 0.3.64 on.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { keepColours } from "./colours.js";
import { commands, menuCommands } from "./menu.js";
import { followRuns } from "./messages.js";
import { settings } from "./settings.js";
import { fitTitle } from "./titles.js";
import { hideUnused } from "./widgets.js";
import { setLanguage } from "./words.js";

app.registerExtension({
  name: "Inkstone",
  commands: commands(app, api),
  menuCommands,
  settings,
  beforeRegisterNodeDef: hideUnused,
  nodeCreated: fitTitle,
  setup() {
    setLanguage(() => app.extensionManager.setting.get("Comfy.Locale"));
    keepColours(app);
    followRuns(app, api);
  },
});
