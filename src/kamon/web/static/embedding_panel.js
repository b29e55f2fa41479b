// Embeddings: tokens and positions on their first two principal components.

import * as api from "./api.js";
import { lines } from "./lines.js";
import { copies, placeOf, python, shell } from "./copy.js";
import { h, panel, replaceContent } from "./dom.js";
import { fixed, percent, visible } from "./format.js";
import { sourceLine } from "./sources.js";

/** @typedef {import("./api.js").Embeddings} Embeddings */

/**
 * The tokens with a label in the picture.
 * @param {Embeddings} found
 */
const namedTokens = (found) => found.tokens.filter((each) => each.named);

const PLAIN = { xName: "", plain: true };

/**
 * @param {Embeddings} found
 * @param {number} id  of the chosen token
 * @returns {import("./lines.js").LineData}
 */
function tokenChart(found, id) {
  const shown = namedTokens(found);
  return {
    ...PLAIN,
    series: [
      {
        name: "",
        kind: "names",
        points: shown.map((each) => [each.x, each.y]),
        labels: shown.map((each) => visible(each.text)),
      },
    ],
    lit: shown.findIndex((each) => each.id === id),
    description: "Tokens on the plane of their first two principal components.",
    behind: {
      head: ["Token", "Id", "x", "y"],
      rows: found.tokens.map((each) => [visible(each.text), each.id, fixed(each.x, 3), fixed(each.y, 3)]),
    },
  };
}

/**
 * @param {Embeddings} found
 * @param {number} position  the chosen one
 * @returns {import("./lines.js").LineData}
 */
function positionChart({ positions }, position) {
  return {
    ...PLAIN,
    series: [
      {
        name: "",
        kind: "faint",
        points: positions.map((each) => [each.x, each.y]),
        labels: positions.map((each) => String(each.position)),
      },
    ],
    lit: positions.findIndex((each) => each.position === position),
    description: "Positions on the plane of their first two principal components, joined in their order.",
    behind: {
      head: ["Position", "x", "y"],
      rows: positions.map((each) => [each.position, fixed(each.x, 3), fixed(each.y, 3)]),
    },
  };
}

export class EmbeddingPanel {
  /**
   * @param {import("./main.js").Context} context
   * @param {import("./api.js").ModelInfo} model
   * @param {(id: number) => void} look  called with the chosen token
   */
  constructor(context, model, look) {
    this.context = context;
    this.model = model;
    /** @type {Embeddings|null} */
    this.found = null;
    this.lit = { id: -1, position: -1 };
    this.tokens = lines("Similar tokens are close together", {
      height: 320,
      look: (i) => this.found && look(namedTokens(this.found)[i].id),
    });
    this.positions = lines("Positions, from the first to the last", { height: 320 });
    this.told = h("p", { class: "told" });
    this.sources = h("div");
    this.node = panel(
      "Embeddings",
      h(
        "p",
        {},
        `The model describes each token and each position by ${model.n_embd} numbers. The charts show the two directions with the largest differences.`,
      ),
      h("div", { class: "two" }, h("div", {}, this.tokens.node), h("div", {}, this.positions.node)),
      this.told,
      this.sources,
      copies(
        () => ({
          command: `kamon plot ${shell(placeOf(model))} --kind embeddings`,
          python: `import kamon\nfrom kamon.evaluation.introspection import embeddings\n\nmodel = kamon.load(${python(placeOf(model))})\nfound = embeddings(model)\nfound.tokens.points, found.positions.points`,
        }),
        model,
      ).node,
    );
  }

  async begin() {
    try {
      this.found = await api.embeddings(this.model.id, this.context.signal);
      const [a, b] = this.found.token_shares;
      const [c, d] = this.found.position_shares;
      this.told.textContent = `The charts show ${percent(a + b)} of the variance of the tokens and ${percent(c + d)} of the variance of the positions.`;
      replaceContent(this.sources, sourceLine(this.found.sources));
      this.light(this.lit.id, this.lit.position);
    } catch (error) {
      this.context.fail(error, this.node);
    }
  }

  /** @param {number} id @param {number} position  of the chosen token */
  light(id, position) {
    this.lit = { id, position };
    if (!this.found) return;
    this.tokens.show(tokenChart(this.found, id));
    this.positions.show(positionChart(this.found, position));
  }
}
