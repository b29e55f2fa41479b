// A graph of Values: the places of its nodes, and its gradients step by step.

import { fixed } from "./format.js";

/**
 * @typedef {import("./api.js").Graph} Graph
 * @typedef {import("./api.js").GraphNode} GraphNode
 */

export const WIDTH = 148; // of a node, in pixels
export const HEIGHT = 62;
const GAP_X = 60;
const GAP_Y = 14;
const MARGIN = 8;

/**
 * Returns the column of each node, which is after those of its inputs.
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
 * Returns the gradients after the first `steps` nodes have passed theirs on.
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

/**
 * Formats a number in a few characters.
 * @param {number} x
 */
export function short(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e4 || size < 1e-3 ? x.toExponential(1).replace("-", "−") : fixed(x, 3);
}

/** @param {GraphNode} node */
export function nameOf(node) {
  return node.label || `${node.op} (${node.id})`;
}

/**
 * Returns the graph without the steps of nodes that have no inputs.
 * @param {Graph} graph
 * @returns {Graph}
 */
export function steppable(graph) {
  const hasInputs = new Set(graph.nodes.filter((each) => each.inputs.length).map((each) => each.id));
  return { ...graph, backward: graph.backward.filter((id) => hasInputs.has(id)) };
}

/**
 * Returns the nodes of each column. A node without inputs is just before the first one that uses it.
 * @param {Graph} graph
 */
function columnsOf(graph) {
  const column = layers(graph);
  const size = Math.max(...column.values()) + 1;
  /** @type {GraphNode[][]} */
  const columns = Array.from({ length: size }, () => []);
  for (const each of graph.nodes) {
    const users = graph.nodes
      .filter((other) => other.inputs.includes(each.id))
      .map((other) => column.get(other.id) ?? 0);
    const place = each.inputs.length || !users.length ? (column.get(each.id) ?? 0) : Math.min(...users) - 1;
    columns[Math.max(0, place)].push(each);
  }
  return columns;
}

/**
 * Returns the upper left corner of each node, and the size of the picture.
 * @param {Graph} graph
 * @returns {{corners: Map<number, {x: number, y: number}>, width: number, height: number}}
 */
export function layoutOf(graph) {
  const columns = columnsOf(graph);
  const height = Math.max(...columns.map((column) => column.length)) * (HEIGHT + GAP_Y) + MARGIN;
  /** @type {Map<number, {x: number, y: number}>} */
  const corners = new Map();
  /** @param {GraphNode} node  a node is next to the middle of its inputs. One without inputs is below, in order */
  const wishedY = (node) => {
    const ys = node.inputs.map((input) => corners.get(input)?.y).filter((y) => y !== undefined);
    return ys.length ? ys.reduce((a, b) => a + b, 0) / ys.length : graph.nodes.indexOf(node) * 1e-3 + height;
  };
  columns.forEach((column, i) => {
    column.sort((a, b) => wishedY(a) - wishedY(b));
    const top = (height - column.length * (HEIGHT + GAP_Y)) / 2;
    const x = MARGIN + i * (WIDTH + GAP_X);
    column.forEach((node, j) => corners.set(node.id, { x, y: top + j * (HEIGHT + GAP_Y) + MARGIN / 2 }));
  });
  return { corners, width: columns.length * (WIDTH + GAP_X) - GAP_X + 2 * MARGIN, height };
}

/**
 * Returns a sentence about what step number `step` did.
 * @param {Graph} graph
 * @param {number} step
 */
export function stepSentence(graph, step) {
  const node = nodeAt(graph, step);
  if (!node) {
    const root = nodeOf(graph, graph.root);
    return `Forward: the root is ${short(root.data)}. Its gradient is 1. All others are still 0.`;
  }
  const gradient = short(gradients(graph, step).get(node.id) ?? 0);
  const parts = node.inputs.map(
    (input, i) => `${nameOf(nodeOf(graph, input))} gets ${short(node.local_grads[i])} × ${gradient}`,
  );
  const given = parts.length ? `: ${parts.join(", ")}` : "";
  return `Step ${step} of ${graph.backward.length}: ${nameOf(node)} passes on its gradient ${gradient}${given}.`;
}

/**
 * Returns the node that passes on its gradient in a step, or null before the first step.
 * @param {Graph} graph
 * @param {number} step
 */
export function nodeAt(graph, step) {
  return step ? nodeOf(graph, graph.backward[step - 1]) : null;
}

/** @param {Graph} graph @param {number} id */
export function nodeOf(graph, id) {
  return /** @type {GraphNode} */ (graph.nodes.find((each) => each.id === id));
}
