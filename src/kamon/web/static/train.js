// Train: a list, its cleaning, a time; the losses and samples as they come, and back again.

import { h, append } from "./dom.js";
import { ListPanel } from "./list_panel.js";
import { RunPanel } from "./run_panel.js";
import { ShelfPanel } from "./shelf.js";

/** @param {import("./main.js").Context} context */
export async function show(context) {
  append(
    context.root,
    h("h1", {}, "Train"),
    h(
      "p",
      { class: "lead" },
      "Give a list, and a tiny GPT learns what makes it sound right. Watch it improve, step by step.",
    ),
    h("div", { class: "two" }, new ListPanel(context).node, new RunPanel(context).node),
    new ShelfPanel(context).node,
  );
}
