// A graph of Values, drawn in layers from what goes in to the loss, and stepped backwards.

import { button, h, s, swap, switchOff, table } from "./dom.js";
import { fixed } from "./format.js";

/**
 * @typedef {import("./api.js").Graph} Graph
 * @typedef {import("./api.js").GraphNode} GraphNode
 */

const WIDE = 148;
const TALL = 62;
const GAP_X = 60;
const GAP_Y = 14;
const LEAST_SCALE = 0.85; // at which a graph that is a little too wide can still be read
const MOST = 300; // nodes; more are no picture

/**
 * The column of each node: one after the last of its inputs.
 * @param {Graph} graph  its nodes in any order
 * @returns {Map<number, number>}
 */
export function layers(graph) {
  const byId = new Map(graph.nodes.map((node) => [node.id, node]));
  /** @type {Map<number, number>} */
  const found = new Map();
  const stack = graph.nodes.map((node) => node.id);
  while (stack.length) {
    const id = stack[stack.length - 1];
    const inputs = byId.get(id)?.inputs ?? [];
    const open = inputs.filter((each) => !found.has(each));
    if (found.has(id)) stack.pop();
    else if (open.length) stack.push(...open);
    else {
      found.set(id, Math.max(-1, ...inputs.map((each) => found.get(each) ?? 0)) + 1);
      stack.pop();
    }
  }
  return found;
}

/**
 * The gradients when the first `steps` nodes have handed theirs on.
 * @param {Graph} graph
 * @param {number} steps
 * @returns {Map<number, number>}
 */
export function gradients(graph, steps) {
  const byId = new Map(graph.nodes.map((node) => [node.id, node]));
  const found = new Map(graph.nodes.map((node) => [node.id, node.id === graph.root ? 1 : 0]));
  for (const id of graph.backward.slice(0, steps)) {
    const node = /** @type {GraphNode} */ (byId.get(id));
    node.inputs.forEach((input, i) => {
      found.set(input, (found.get(input) ?? 0) + node.local_grads[i] * (found.get(id) ?? 0));
    });
  }
  return found;
}

/** @param {number} x */
function short(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e4 || size < 1e-3 ? x.toExponential(1).replace("-", "−") : fixed(x, 3);
}

/**
 * A graph with its buttons.
 * @param {(text: string) => void} say
 * @param {(step: number) => void} moved
 */
export function valueGraph(say, moved) {
  /** @type {Graph|null} */
  let graph = null;
  let step = 0;
  let last = 0; // steps there are
  const told = h("p", { class: "told", "aria-live": "polite" });
  const place = h("div", { class: "scroll graph", tabindex: 0, role: "region", "aria-label": "The graph: left and right arrow keys step through it" });
  const inner = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The graph: table" });
  const details = h("details", { class: "behind" }, h("summary", {}, "Table"), inner);
  const first = button("Reset", () => move(0));
  const less = button("◀ Step back", () => move(step - 1));
  const more = button("Next step ▶", () => move(step + 1), { class: "main" });
  const all = button("Run all", () => move(last));
  const node = h("div", { class: "values" }, h("div", { class: "buttons" }, first, less, more, all), told, place, details);
  details.addEventListener("toggle", drawTable);
  place.addEventListener("keydown", (event) => {
    const to = { ArrowRight: step + 1, ArrowLeft: step - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
  });

  /** @param {number} to */
  function move(to) {
    const next = Math.min(last, Math.max(0, to));
    if (next === step) return;
    step = next;
    moved(step);
    draw();
  }

  function drawTable() {
    if (!details.open || !graph) return;
    const grads = gradients(graph, step);
    swap(
      inner,
      table(
        "The Values of the graph",
        ["Value", "Operation", "Data", "Gradient now", "In the end", "Inputs (× local gradient)"],
        graph.nodes.map((each) => [
          nameOf(each),
          each.op,
          short(each.data),
          short(grads.get(each.id) ?? 0),
          short(each.grad),
          each.inputs.map((input, i) => `${nameOf(find(input))} × ${short(each.local_grads[i])}`).join(", "),
        ]),
      ),
    );
  }

  /** @param {number} id */
  const find = (id) => /** @type {GraphNode} */ (graph?.nodes.find((each) => each.id === id));
  /** @param {GraphNode} each */
  const nameOf = (each) => each.label || `${each.op} (${each.id})`;

  function draw() {
    if (!graph) return;
    for (const each of [first, less]) switchOff(each, step === 0);
    for (const each of [more, all]) switchOff(each, step === last);
    const now = step ? find(graph.backward[step - 1]) : null;
    const grads = gradients(graph, step);
    if (!now) {
      told.textContent = `Forward: the root is ${short(find(graph.root).data)}. Its gradient by itself is 1; all others are 0 yet.`;
    } else {
      const parts = now.inputs.map((input, i) => `${nameOf(find(input))} gets ${short(now.local_grads[i])} × ${short(grads.get(now.id) ?? 0)}`);
      told.textContent = `Step ${step} of ${last}: ${nameOf(now)} hands on its gradient ${short(grads.get(now.id) ?? 0)}${parts.length ? `: ${parts.join("; ")}` : ""}.`;
    }
    say(told.textContent ?? "");
    drawTable();
    if (graph.nodes.length > MOST) {
      swap(place, h("p", {}, `${graph.nodes.length} Values are too many for a picture; the table has them.`));
      return;
    }
    const column = layers(graph);
    const columns = Math.max(...column.values()) + 1;
    /** @type {GraphNode[][]} */
    const stacks = Array.from({ length: columns }, () => []);
    // What goes into one node alone stands right before it.
    for (const each of graph.nodes) {
      const used = graph.nodes.filter((other) => other.inputs.includes(each.id)).map((other) => column.get(other.id) ?? 0);
      const at = each.inputs.length || !used.length ? (column.get(each.id) ?? 0) : Math.min(...used) - 1;
      stacks[Math.max(0, at)].push(each);
    }
    /** @type {Map<number, {x: number, y: number}>} */
    const where = new Map();
    const most = Math.max(...stacks.map((stack) => stack.length));
    const height = most * (TALL + GAP_Y) + 8;
    stacks.forEach((stack, i) => {
      /** @param {GraphNode} each */
      const wish = (each) => {
        const ys = each.inputs.map((input) => where.get(input)?.y).filter((y) => y !== undefined);
        return ys.length ? ys.reduce((a, b) => a + b, 0) / ys.length : graph ? graph.nodes.indexOf(each) * 1e-3 + height : 0;
      };
      stack.sort((a, b) => wish(a) - wish(b));
      const from = (height - stack.length * (TALL + GAP_Y)) / 2;
      stack.forEach((each, j) => where.set(each.id, { x: 8 + i * (WIDE + GAP_X), y: from + j * (TALL + GAP_Y) + 4 }));
    });
    const width = columns * (WIDE + GAP_X) - GAP_X + 16;
    const room = place.clientWidth;
    const scale = room < width && room > LEAST_SCALE * width ? room / width : 1;
    const done = new Set(graph.backward.slice(0, step));
    const svg = s("svg", {
      viewBox: `0 0 ${width} ${height}`,
      width: width * scale,
      height: height * scale,
      role: "img",
      "aria-label": `A graph of ${graph.nodes.length} Values; the table says the same`,
    });
    for (const each of graph.nodes) {
      const to = /** @type {{x: number, y: number}} */ (where.get(each.id));
      each.inputs.forEach((input, i) => {
        const from = /** @type {{x: number, y: number}} */ (where.get(input));
        const [x1, y1, x2, y2] = [from.x + WIDE, from.y + TALL / 2, to.x, to.y + TALL / 2 + (i - (each.inputs.length - 1) / 2) * 12];
        const bend = Math.max(20, (x2 - x1) / 2);
        const flows = now?.id === each.id;
        svg.append(s("path", { d: `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`, class: flows ? "edge flows" : "edge" }));
        if (flows) {
          svg.append(
            s("path", { d: `M${x1},${y1} l9,-5 v10 z`, class: "arrow" }),
            s("text", { x: x1 + 10, y: y1 - 8, class: "local" }, `×${short(each.local_grads[i])}`),
          );
        }
      });
    }
    for (const each of graph.nodes) {
      const { x, y } = /** @type {{x: number, y: number}} */ (where.get(each.id));
      const current = now?.id === each.id;
      const given = now?.inputs.includes(each.id) ?? false;
      const title = nameOf(each);
      svg.append(
        s(
          "g",
          { class: current ? "node current" : given ? "node given" : done.has(each.id) ? "node done" : "node" },
          s("title", {}, `${nameOf(each)}: data ${each.data}, gradient ${grads.get(each.id)}`),
          s("rect", { x, y, width: WIDE, height: TALL, rx: 6 }),
          s("text", { x: x + 8, y: y + 17, class: "title" }, `${current ? "▶ " : ""}${title.length > 20 ? `${title.slice(0, 19)}…` : title}`),
          s("text", { x: x + 8, y: y + 36 }, `data ${short(each.data)}`),
          s("text", { x: x + 8, y: y + 53, class: "grad" }, `grad ${short(grads.get(each.id) ?? 0)}`),
        ),
      );
    }
    const left = now ? place.scrollLeft : 0; // forward, it begins with what goes in
    swap(place, svg);
    place.scrollLeft = left;
    if (!now) return;
    // In view: the node, and to its left those that it hands its gradient to.
    const xs = [now.id, ...now.inputs].map((id) => where.get(id)?.x ?? 0);
    const [from, to] = [Math.min(...xs), xs[0] + WIDE];
    if (scale < 1) return;
    if (from < place.scrollLeft || to > place.scrollLeft + room) {
      place.scrollLeft = to - from < room ? (from + to - room) / 2 : to - room + 8;
    }
  }

  return {
    node,
    /** @param {Graph} found @param {number} [at] */
    show(found, at = 0) {
      // Those without inputs have nothing to hand on.
      graph = { ...found, backward: found.backward.filter((id) => found.nodes.find((each) => each.id === id)?.inputs.length) };
      last = graph.backward.length;
      step = Math.min(at, last);
      draw();
    },
  };
}
