// A graph of Values, drawn in layers from the inputs to the loss. The user steps backwards through it.

import { button, h, s, replaceContent, setDisabled, table } from "./dom.js";
import {
  HEIGHT,
  WIDTH,
  gradients,
  layoutOf,
  nameOf,
  nodeAt,
  nodeOf,
  short,
  steppable,
  stepSentence,
} from "./graph_layout.js";

/**
 * @typedef {import("./api.js").Graph} Graph
 * @typedef {import("./api.js").GraphNode} GraphNode
 * @typedef {ReturnType<typeof layoutOf>} Layout
 */

const MIN_SCALE = 0.85; // smallest scale at which text is readable
const MAX_NODES = 300; // more nodes get only a table
const MAX_NAME = 20; // characters

/** A graph with its buttons. */
export class ValueGraph {
  /**
   * @param {(text: string) => void} say
   * @param {(step: number) => void} moved
   */
  constructor(say, moved) {
    this.say = say;
    this.moved = moved;
    /** @type {Graph|null} */
    this.graph = null;
    this.step = 0;
    this.told = h("p", { class: "told", "aria-live": "polite" });
    this.place = h("div", {
      class: "scroll graph",
      tabindex: 0,
      role: "region",
      "aria-label": "The graph: left and right arrow keys step through it",
    });
    this.inner = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The graph: table" });
    this.details = h("details", { class: "behind" }, h("summary", {}, "Table"), this.inner);
    this.reset = button("Reset", () => this.move(0));
    this.less = button("◀ Step back", () => this.move(this.step - 1));
    this.more = button("Next step ▶", () => this.move(this.step + 1), { class: "main" });
    this.all = button("Run all", () => this.move(this.last()));
    const buttons = h("div", { class: "buttons" }, this.reset, this.less, this.more, this.all);
    this.node = h("div", { class: "values" }, buttons, this.told, this.place, this.details);
    this.details.addEventListener("toggle", () => this.drawTable());
    this.place.addEventListener("keydown", (event) => this.pressed(event));
  }

  /** @param {Graph} graph @param {number} [step] */
  show(graph, step = 0) {
    this.graph = steppable(graph);
    this.step = Math.min(step, this.last());
    this.draw();
  }

  /** The number of steps. */
  last() {
    return this.graph?.backward.length ?? 0;
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    const step = { ArrowRight: this.step + 1, ArrowLeft: this.step - 1, Home: 0, End: this.last() }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.move(step);
  }

  /** @param {number} step */
  move(step) {
    const next = Math.min(this.last(), Math.max(0, step));
    if (next === this.step) return;
    this.step = next;
    this.moved(next);
    this.draw();
  }

  draw() {
    const { graph, step } = this;
    if (!graph) return;
    for (const each of [this.reset, this.less]) setDisabled(each, step === 0);
    for (const each of [this.more, this.all]) setDisabled(each, step === this.last());
    const sentence = stepSentence(graph, step);
    this.told.textContent = sentence;
    this.say(sentence);
    this.drawTable();
    if (graph.nodes.length > MAX_NODES)
      replaceContent(
        this.place,
        h("p", {}, `${graph.nodes.length} Values are too many for a picture. Open the table instead.`),
      );
    else this.drawPicture(graph);
  }

  drawTable() {
    const { graph } = this;
    if (!this.details.open || !graph) return;
    const now = gradients(graph, this.step);
    const rows = graph.nodes.map((each) => [
      nameOf(each),
      each.op,
      short(each.data),
      short(now.get(each.id) ?? 0),
      short(each.grad),
      each.inputs.map((input, i) => `${nameOf(nodeOf(graph, input))} × ${short(each.local_grads[i])}`).join(", "),
    ]);
    const headings = ["Value", "Operation", "Data", "Gradient now", "Final gradient", "Inputs (× local gradient)"];
    replaceContent(this.inner, table("The Values of the graph", headings, rows));
  }

  /** @param {Graph} graph */
  drawPicture(graph) {
    const layout = layoutOf(graph);
    const { width, height } = layout;
    const room = this.place.clientWidth;
    const scale = room < width && room > MIN_SCALE * width ? room / width : 1;
    const now = nodeAt(graph, this.step);
    const svg = s(
      "svg",
      {
        viewBox: `0 0 ${width} ${height}`,
        width: width * scale,
        height: height * scale,
        role: "img",
        "aria-label": `A graph of ${graph.nodes.length} Values. The table has the same numbers.`,
      },
      ...graph.nodes.flatMap((each) => edges(each, layout, now?.id === each.id)),
      ...nodes(graph, layout, this.step),
    );
    const left = now ? this.place.scrollLeft : 0; // the forward view starts at the inputs
    replaceContent(this.place, svg);
    this.place.scrollLeft = left;
    if (now && scale === 1) this.bringIntoView(now, layout, room);
  }

  /**
   * Scrolls to a node and its inputs on the left, which get its gradient.
   * @param {GraphNode} node
   * @param {Layout} layout
   * @param {number} room  the visible width
   */
  bringIntoView(node, { corners }, room) {
    const xs = [node.id, ...node.inputs].map((id) => corners.get(id)?.x ?? 0);
    const [from, to] = [Math.min(...xs), xs[0] + WIDTH];
    if (from < this.place.scrollLeft || to > this.place.scrollLeft + room) {
      this.place.scrollLeft = to - from < room ? (from + to - room) / 2 : to - room + 8;
    }
  }
}

/** @param {Layout} layout @param {number} id */
const cornerOf = ({ corners }, id) => /** @type {{x: number, y: number}} */ (corners.get(id));

/**
 * The lines from the inputs of a node to the node.
 * @param {GraphNode} node
 * @param {Layout} layout
 * @param {boolean} flows  whether this step passes gradients along them
 */
function edges(node, layout, flows) {
  const to = cornerOf(layout, node.id);
  return node.inputs.flatMap((input, i) => {
    const from = cornerOf(layout, input);
    const [x1, y1, x2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x];
    const y2 = to.y + HEIGHT / 2 + (i - (node.inputs.length - 1) / 2) * 12;
    const bend = Math.max(20, (x2 - x1) / 2);
    const path = `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
    const line = s("path", { d: path, class: flows ? "edge flows" : "edge" });
    if (!flows) return [line];
    return [
      line,
      s("path", { d: `M${x1},${y1} l9,-5 v10 z`, class: "arrow" }),
      s("text", { x: x1 + 10, y: y1 - 8, class: "local" }, `×${short(node.local_grads[i])}`),
    ];
  });
}

/**
 * @param {Graph} graph
 * @param {Layout} layout
 * @param {number} step
 */
function nodes(graph, layout, step) {
  const now = nodeAt(graph, step);
  const done = new Set(graph.backward.slice(0, step));
  const grads = gradients(graph, step);
  return graph.nodes.map((each) => {
    const { x, y } = cornerOf(layout, each.id);
    const current = now?.id === each.id;
    const kind = current ? " current" : now?.inputs.includes(each.id) ? " given" : done.has(each.id) ? " done" : "";
    const name = nameOf(each);
    const shown = name.length > MAX_NAME ? `${name.slice(0, MAX_NAME - 1)}…` : name;
    return s(
      "g",
      { class: `node${kind}` },
      s("title", {}, `${name}: data ${each.data}, gradient ${grads.get(each.id)}`),
      s("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 6 }),
      s("text", { x: x + 8, y: y + 17, class: "title" }, `${current ? "▶ " : ""}${shown}`),
      s("text", { x: x + 8, y: y + 36 }, `data ${short(each.data)}`),
      s("text", { x: x + 8, y: y + 53, class: "grad" }, `grad ${short(grads.get(each.id) ?? 0)}`),
    );
  });
}
