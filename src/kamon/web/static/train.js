// Train: choose a list and a time, then watch the losses and samples.

import { h, append } from "./dom.js";
import { ListPanel } from "./list_panel.js";
import { RunPanel } from "./run_panel.js";
import { ShelfPanel } from "./shelf.js";
import { address } from "./state.js";

/** @param {import("./main.js").Context} context */
export async function show(context) {
  append(
    context.root,
    h("h1", {}, "Train"),
    h("p", { class: "lead" }, "Paste a list and watch a tiny GPT learn to imitate it."),
    h(
      "ol",
      { class: "first" },
      h("li", {}, "1. Choose a list"),
      h("li", {}, "2. Train"),
      h("li", {}, h("span", {}, "3. "), h("a", { href: address({ view: "generate" }) }, "Generate")),
    ),
    h("div", { class: "two" }, new ListPanel(context).node, new RunPanel(context).node),
    new ShelfPanel(context).node,
  );
}
