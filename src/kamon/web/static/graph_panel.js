// The graph of Values of a small expression or of one term of the loss.

import * as api from "./api.js";
import { copies, placeOf, python } from "./copy.js";
import { field, h, panel, replaceContent } from "./dom.js";
import { ValueGraph } from "./graph.js";
import { sourceLine } from "./sources.js";
import { change, numberIn } from "./state.js";

const USUAL = { a: "2", b: "-3", c: "10" };
const LIMIT = 100; // of the numbers in the expression

export class GraphPanel {
  /**
   * @param {import("./main.js").Context} context
   * @param {import("./api.js").ModelInfo} model
   * @param {() => string} text  returns the text for the loss
   */
  constructor(context, model, text) {
    const { state } = context;
    this.context = context;
    this.model = model;
    this.text = text;
    this.ask = api.latest(context.signal);
    this.loss = h("input", { type: "radio", name: "graph", checked: state.graph === "loss" });
    this.small = h("input", { type: "radio", name: "graph", checked: state.graph !== "loss" });
    /** @param {"a"|"b"|"c"} name */
    const number = (name) => {
      const value = String(numberIn(state[name], Number(USUAL[name]), -LIMIT, LIMIT));
      return h("input", { type: "number", step: "any", min: -LIMIT, max: LIMIT, value });
    };
    this.numbers = { a: number("a"), b: number("b"), c: number("c") };
    this.position = h("input", {
      type: "number",
      min: 0,
      max: model.block_size - 1,
      step: 1,
      value: state.position ?? "0",
    });
    this.errors = h("div", { class: "errors" });
    this.sources = h("div");
    this.folded = h("p", { class: "hint" });
    this.picture = new ValueGraph(context.say, (step) => change({ at: step || null }));
    const { a, b, c } = this.numbers;
    this.expressionRow = h("div", { class: "row" }, field("a", a), field("b", b), field("c", c));
    this.lossRow = h("div", { class: "row" }, field("Position, from 0", this.position));
    this.node = this.layout();
    for (const input of [a, b, c, this.position]) input.addEventListener("input", () => this.draw());
    for (const input of [this.loss, this.small]) input.addEventListener("change", () => this.draw());
  }

  layout() {
    return panel(
      "Gradient graph",
      h(
        "p",
        {},
        "Each Value remembers how it was computed. Going backwards, it multiplies its gradient by the local derivative and passes the result to its inputs. The small expression is (relu(a·b + c) − 1)².",
      ),
      h(
        "fieldset",
        { class: "choice" },
        h("legend", {}, "Graph"),
        h("label", {}, this.small, "a small expression"),
        h("label", {}, this.loss, "one term of the loss"),
      ),
      this.expressionRow,
      this.lossRow,
      this.errors,
      this.picture.node,
      this.folded,
      this.sources,
      copies(() => this.code(), this.model).node,
    );
  }

  code() {
    const { a, b, c } = this.values();
    return {
      command:
        "# this trains one step with such graphs. The graph itself is available from Python\nkamon train names --no-holdout --engine scalar --num-steps 1 -o one-step",
      python: this.loss.checked
        ? `import kamon\n\nmodel = kamon.load(${python(placeOf(this.model))}, engine="scalar")\nmodel.engine.logprobs(model.tokenizer.encode_documents([${python(this.text())}]))`
        : `from kamon.engines.scalar import Value\n\na, b, c = Value(${a}), Value(${b}), Value(${c})\nloss = ((a * b + c).relu() - 1) ** 2\nloss.backward()\na.grad, b.grad, c.grad`,
    };
  }

  values() {
    const { a, b, c } = this.numbers;
    return { a: Number(a.value), b: Number(b.value), c: Number(c.value) };
  }

  /** @returns {api.BodyOf<"POST /graph">} */
  request() {
    return this.loss.checked
      ? { kind: "loss", model: this.model.id, text: this.text(), position: Number(this.position.value) }
      : { kind: "expression", ...this.values() };
  }

  /** @param {number} at  the step on show */
  writeAddress(at) {
    /** @param {"a"|"b"|"c"} name */
    const unusual = (name) =>
      this.small.checked && this.numbers[name].value !== USUAL[name] ? this.numbers[name].value : null;
    change({
      graph: this.loss.checked ? "loss" : null,
      a: unusual("a"),
      b: unusual("b"),
      c: unusual("c"),
      position: this.loss.checked ? this.position.value : null,
      at: at || null,
    });
  }

  /** @param {number} [at]  the step to show */
  async draw(at = 0) {
    this.expressionRow.hidden = this.loss.checked;
    this.lossRow.hidden = !this.loss.checked;
    this.writeAddress(at);
    replaceContent(this.errors);
    this.picture.node.hidden = this.loss.checked && this.text() === "";
    if (this.picture.node.hidden) return replaceContent(this.sources);
    try {
      const found = await this.ask((signal) => api.graph(this.request(), signal));
      replaceContent(this.sources, sourceLine(found.sources));
      this.folded.textContent = found.folded ?? "";
      this.picture.show(found, at);
    } catch (error) {
      this.context.fail(error, this.errors);
    }
  }

  begin() {
    return this.draw(Math.floor(numberIn(this.context.state.at, 0, 0, 10000)));
  }

  /** The text has changed. */
  follow() {
    this.position.max = String([...this.text()].length);
    if (this.loss.checked) this.draw();
  }
}
