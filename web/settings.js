// Our part of the settings dialog. The page stores what differs from these defaults in its own
// settings file; host/settings.py reads it there when a model is loaded or a picture is drawn.

export const settings = [
  {
    id: "Inkstone.MemoryLimit",
    category: ["Inkstone", "Memory", "Limit"],
    name: "Memory limit in GB (0: no limit)",
    tooltip:
      "What ComfyUI and Inkstone together may use of the device that computes. Weights beyond it are streamed from the file. Applies from the next run on; the log names it.",
    type: "number",
    attrs: { min: 0, max: 2048, step: 0.5, maxFractionDigits: 2, showButtons: true },
    defaultValue: 0,
  },
  {
    id: "Inkstone.Precision",
    category: ["Inkstone", "Models", "Precision"],
    name: "Precision for dtype auto",
    tooltip:
      "What auto stands for in the loaders of diffusion models, text encoders and ControlNets. In Load All also for the VAE. auto: the fastest that is safe on this machine.",
    type: "combo",
    options: ["auto", "float32", "bfloat16"],
    defaultValue: "auto",
  },
  {
    id: "Inkstone.Previews",
    category: ["Inkstone", "Sampling", "Previews"],
    name: "Show previews while sampling",
    tooltip: "Off: Inkstone Sampler sends no pictures of its steps, whatever ComfyUI's own setting is.",
    type: "boolean",
    defaultValue: true,
  },
];
