// The three kinds of chart: bars, a heat map, lines. Each is SVG with a title and a description, and
// has a table of the same numbers behind it.

import { h, newId, put, s, swap, table } from "./dom.js";

/**
 * @typedef {import("./dom.js").Child} Child
 * @typedef {object} Drawn
 * @property {number} height
 * @property {string} description
 * @property {SVGElement[]} parts
 *
 * @typedef {{head: string[], rows: Child[][]}} Behind
 */

/**
 * What all kinds share: the figure, its size, the focus within it, the table.
 * @template T
 * @param {string} title
 * @param {string} role  "img", or what the parts are parts of
 * @param {(data: T, width: number) => Drawn} draw
 * @param {(data: T) => Behind} behind
 */
function chart(title, role, draw, behind) {
  const name = s("title", { id: newId() }, title);
  const description = s("desc", { id: newId() });
  const svg = s("svg", {
    role,
    "aria-labelledby": name.id,
    "aria-describedby": description.id,
  });
  const inner = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title}: table` });
  const details = h("details", { class: "behind" }, h("summary", {}, "Table"), inner);
  const node = h("figure", { class: "chart" }, h("figcaption", {}, title), svg, details);
  /** @type {T|undefined} */
  let data;
  let width = 0;

  const redraw = () => {
    if (data === undefined || width === 0) return;
    const focused = svg.contains(document.activeElement)
      ? document.activeElement?.getAttribute("data-key")
      : null;
    const drawn = draw(data, width);
    svg.setAttribute("viewBox", `0 0 ${width} ${drawn.height}`);
    svg.setAttribute("width", String(width));
    svg.setAttribute("height", String(drawn.height));
    description.textContent = drawn.description;
    svg.replaceChildren(name, description, ...drawn.parts);
    if (focused !== null && focused !== undefined) {
      const again = svg.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? svg.querySelector("[tabindex='0']");
      /** @type {SVGElement|null} */ (again)?.focus();
    }
    fillTable();
  };
  const fillTable = () => {
    if (!details.open || data === undefined) return;
    const found = behind(data);
    swap(inner, table(title, found.head, found.rows));
  };
  details.addEventListener("toggle", fillTable);
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now !== width) {
      width = now;
      redraw();
    }
  }).observe(node);
  return {
    node,
    svg,
    table: inner,
    /** @param {T} shown */
    show(shown) {
      data = shown;
      redraw();
    },
  };
}

/**
 * Numbers under 1 % are "<1", so that nothing that is there reads as nothing.
 * @param {number} x
 */
export function short(x) {
  const p = 100 * x;
  if (p === 0) return "";
  return p < 0.95 ? "<1" : p.toFixed(0);
}

let patterns = 0;

/**
 * Lines for a fill that is not told by its colour.
 * @param {string} kind  "hatch" for what was cut off, "dots" for the second of two
 */
function pattern(kind) {
  const id = `p${++patterns}`;
  const lines =
    kind === "hatch"
      ? s("path", { d: "M-1,7 L7,-1 M5,7 L7,5 M-1,1 L1,-1", class: "lines" })
      : s("path", { d: "M0,1.5 H6 M0,4.5 H6", class: "lines" });
  return { id, node: s("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, lines) };
}

/**
 * @typedef {object} Bar
 * @property {string} label
 * @property {number} value
 * @property {number} [second]  of the second row of bars
 * @property {boolean} [cut]  drawn hatched: it was cut off
 * @property {boolean} [sum]  of several, which cannot be chosen
 * @property {string} title  all about it
 *
 * @typedef {object} BarData
 * @property {Bar[]} bars
 * @property {Behind} behind
 * @property {string} description
 * @property {(x: number) => string} [format]
 * @property {number} [place]  the one that keys stand on
 * @property {[string, string]} [names]  of the first and the second bars
 */

/**
 * Bars, in as many rows as the width needs. With `choose` they are options: arrows, Enter, a click.
 * @param {string} title
 * @param {{choose?: (place: number) => void, look?: (place: number) => void, slot?: number}} [does]
 */
export function bars(title, does = {}) {
  let place = 0;
  let size = 0;
  /** @type {ReturnType<typeof chart<BarData>>} */
  const made = chart(title, does.choose ? "listbox" : "img", draw, (data) => data.behind);

  /** @param {BarData} data @param {number} width @returns {Drawn} */
  function draw(data, width) {
    const { bars: all, format = short, names } = data;
    size = all.length;
    place = Math.min(data.place ?? place, Math.max(0, size - 1));
    const two = names !== undefined;
    const least = does.slot ?? (two ? 34 : 24);
    const most = Math.max(1, Math.floor(width / least));
    const lanes = Math.max(1, Math.ceil(size / most));
    const each = Math.max(1, Math.ceil(size / lanes));
    const slot = Math.min(width / each, two ? 72 : 52);
    /** @param {Bar[]} some */
    const highest = (some) => Math.max(1e-12, ...some.map((bar) => Math.max(bar.value, bar.second ?? 0)));
    const top = highest(all);
    // A row is as tall as its bars need: all have one scale.
    const talls = Array.from({ length: lanes }, (_, i) =>
      Math.max(12, ((lanes === 1 ? 150 : 110) * highest(all.slice(i * each, (i + 1) * each))) / top),
    );
    /** @type {number[]} */
    const bases = [];
    talls.forEach((tall, i) => bases.push((i ? bases[i - 1] + 26 : two ? 26 : 0) + tall + 18));
    const cut = pattern("hatch");
    const other = pattern("dots");
    /** @type {SVGElement[]} */
    const parts = [s("defs", {}, cut.node, other.node)];
    if (two) {
      parts.push(
        s("rect", { x: 0, y: 4, width: 14, height: 12, class: "bar" }),
        s("text", { x: 20, y: 14 }, names[0]),
        s("rect", { x: 130, y: 4, width: 14, height: 12, class: "second", fill: `url(#${other.id})` }),
        s("text", { x: 150, y: 14 }, names[1]),
      );
    }
    all.forEach((bar, i) => {
      const x = (i % each) * slot;
      const [tall, base] = [talls[Math.floor(i / each)], bases[Math.floor(i / each)]];
      /** @param {number} value @param {number} shift @param {string} kind */
      const column = (value, shift, kind) => {
        const height = Math.max(value > 0 ? 1 : 0, (value / top) * (lanes === 1 ? 150 : 110));
        const wide = (slot - 4) / (two ? 2 : 1);
        const fill = kind === "cut" ? cut.id : kind === "second" ? other.id : "";
        return [
          s("rect", {
            x: x + 2 + shift * wide,
            y: base - height,
            width: Math.max(1, wide - (two ? 1 : 0)),
            height,
            class: kind,
            fill: fill ? `url(#${fill})` : null,
          }),
          s(
            "text",
            { x: x + 2 + (shift + 0.5) * wide, y: base - height - 4, class: "value" },
            format(value),
          ),
        ];
      };
      put(
        group(bar, i),
        s("title", {}, bar.title),
        s("rect", { x, y: base - tall - 16, width: slot, height: tall + 40, class: "slot" }),
        ...column(bar.value, 0, bar.cut ? "cut" : bar.sum ? "sum" : "bar"),
        ...(two ? column(bar.second ?? 0, 1, "second") : []),
        s("text", { x: x + slot / 2, y: base + 16, class: "letter" }, bar.label),
        s("line", { x1: x, x2: x + slot, y1: base, y2: base, class: "axis" }),
      );
    });

    /** @param {Bar} bar @param {number} i */
    function group(bar, i) {
      const free = does.choose && !bar.sum;
      const node = s("g", {
        "data-key": i,
        class: free ? "option" : does.look ? "look" : null,
        role: does.choose ? "option" : null,
        "aria-label": does.choose ? bar.title : null,
        "aria-selected": does.choose ? String(i === place) : null,
        "aria-disabled": does.choose && bar.sum ? "true" : null,
        tabindex: does.choose ? (i === place ? 0 : -1) : null,
      });
      parts.push(node);
      return node;
    }
    return { height: bases[lanes - 1] + 26, description: data.description, parts };
  }

  /** @param {number} to */
  const stand = (to) => {
    const groups = made.svg.querySelectorAll("g[data-key]");
    groups[place]?.setAttribute("tabindex", "-1");
    groups[place]?.setAttribute("aria-selected", "false");
    place = Math.min(size - 1, Math.max(0, to));
    const now = /** @type {SVGElement|undefined} */ (groups[place]);
    now?.setAttribute("tabindex", "0");
    now?.setAttribute("aria-selected", "true");
    now?.focus();
  };
  /** @param {Event} event */
  const placeOf = (event) => {
    const found = /** @type {Element} */ (event.target).closest("[data-key]")?.getAttribute("data-key");
    return found === null || found === undefined ? -1 : Number(found);
  };
  if (does.choose) {
    const choose = does.choose;
    made.svg.addEventListener("click", (event) => {
      const found = placeOf(event);
      if (found >= 0) choose(found);
    });
    made.svg.addEventListener("keydown", (event) => {
      /** @type {Record<string, () => void>} */
      const keys = {
        ArrowRight: () => stand(place + 1),
        ArrowDown: () => stand(place + 1),
        ArrowLeft: () => stand(place - 1),
        ArrowUp: () => stand(place - 1),
        Home: () => stand(0),
        End: () => stand(size - 1),
        Enter: () => choose(place),
        " ": () => choose(place),
      };
      const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
      if (act) {
        event.preventDefault();
        event.stopPropagation();
        act();
      }
    });
  }
  if (does.look) {
    const look = does.look;
    made.svg.addEventListener("pointerover", (event) => {
      const found = placeOf(event);
      if (found >= 0) look(found);
    });
  }
  return made;
}

/**
 * @typedef {object} HeatData
 * @property {string[]} labels  of rows and columns
 * @property {number[][]} values  0 to 1; of row t the first t + 1
 * @property {number} row  the one looked at
 * @property {string} description
 */

/**
 * A heat map: the larger the square in a cell, the larger its number.
 * @param {string} title
 * @param {(row: number) => void} look
 */
export function heat(title, look) {
  let rows = 0;
  let row = 0;
  /** @type {ReturnType<typeof chart<HeatData>>} */
  const made = chart(title, "group", draw, (data) => ({
    head: ["reads", ...data.labels],
    rows: data.labels.map((label, t) => [
      t === data.row ? `▸ ${label}` : label,
      ...data.values[t].map((value, s_) => (s_ <= t ? value.toFixed(2) : "")),
    ]),
  }));

  /** @param {HeatData} data @param {number} width @returns {Drawn} */
  function draw(data, width) {
    const n = data.labels.length;
    rows = n;
    row = data.row;
    const left = 34;
    const cell = Math.max(8, Math.min(40, (width - left - 2) / n));
    /** @type {SVGElement[]} */
    const parts = [];
    data.labels.forEach((label, i) => {
      const middle = left + (i + 0.5) * cell;
      const size = cell < 14 && i % 2 ? "" : label;
      parts.push(s("text", { x: middle, y: 14, class: "letter" }, size));
    });
    data.labels.forEach((label, t) => {
      const y = 22 + t * cell;
      const here = t === data.row;
      const node = s(
        "g",
        {
          "data-key": t,
          class: here ? "row here" : "row",
          role: "img",
          tabindex: here ? 0 : -1,
          "aria-label": `${label} looks at ${data.labels
            .slice(0, t + 1)
            .map((to, i) => `${to} ${Math.round(100 * data.values[t][i])}%`)
            .join(", ")}`,
        },
        s("rect", { x: 0, y, width: left + n * cell, height: cell, class: "slot" }),
        s("text", { x: 26, y: y + cell / 2 + 5, class: "side" }, here ? `▸${label}` : label),
      );
      for (let i = 0; i <= t; i++) {
        const side = Math.sqrt(Math.max(0, Math.min(1, data.values[t][i]))) * (cell - 3);
        const x = left + i * cell;
        put(
          node,
          s("rect", { x: x + 0.5, y: y + 0.5, width: cell - 1, height: cell - 1, class: "cell" }),
          s(
            "rect",
            { x: x + (cell - side) / 2, y: y + (cell - side) / 2, width: side, height: side, class: "bar" },
            s("title", {}, `${label} looks at ${data.labels[i]}: ${data.values[t][i].toFixed(3)}`),
          ),
        );
      }
      parts.push(node);
    });
    return { height: 26 + n * cell, description: data.description, parts };
  }

  /** @param {Event} event */
  const rowOf = (event) => {
    const found = /** @type {Element} */ (event.target).closest("[data-key]")?.getAttribute("data-key");
    return found === null || found === undefined ? -1 : Number(found);
  };
  for (const kind of ["pointerover", "click"]) {
    made.svg.addEventListener(kind, (event) => {
      const found = rowOf(event);
      if (found >= 0 && found !== row) look(found);
    });
  }
  made.svg.addEventListener("keydown", (event) => {
    const to = { ArrowDown: row + 1, ArrowUp: row - 1, Home: 0, End: rows - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    look(Math.min(rows - 1, Math.max(0, to)));
    /** @type {SVGElement|null} */ (made.svg.querySelector(`[data-key="${row}"]`))?.focus();
  });
  return made;
}

/**
 * @typedef {object} Series
 * @property {string} name
 * @property {[number, number][]} points
 * @property {"line"|"faint"|"dots"|"marked"|"names"} kind
 * @property {string[]} [labels]  of the points, for "names" and "marked"
 *
 * @typedef {object} LineData
 * @property {Series[]} series
 * @property {{y: number, name: string, dash: string}[]} [rules]  level lines
 * @property {number|null} [cursor]  an x that is looked at
 * @property {number} [lit]  the named point that is looked at
 * @property {string} xName
 * @property {string} yName
 * @property {[number, number]} [xRange]
 * @property {[number, number]} [yRange]  what lies outside is not drawn
 * @property {boolean} [plain]  without numbers at the axes
 * @property {string} description
 * @property {Behind} behind
 */

/**
 * Ends of a range to whole steps, and the steps in it.
 * @param {number} least
 * @param {number} most
 * @param {number} wanted
 */
function ticks(least, most, wanted) {
  const rough = (most - least || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((each) => each * power >= rough) ?? 10);
  const found = [];
  for (let i = Math.ceil(least / step); i * step <= most + 1e-9 * step; i++) found.push(i * step);
  return found;
}

/**
 * Lines and points, with their names beside them.
 * @param {string} title
 * @param {{height?: number, look?: (place: number) => void}} [does]
 */
export function lines(title, does = {}) {
  /** @type {ReturnType<typeof chart<LineData>>} */
  const made = chart(title, "img", draw, (data) => data.behind);

  /** @param {LineData} data @param {number} width @returns {Drawn} */
  function draw(data, width) {
    const { series, rules = [], plain = false } = data;
    const height = does.height ?? 300;
    const right = plain ? 12 : width < 480 ? 92 : 132;
    const clip = `p${++patterns}`;
    const [left, up, down] = plain ? [12, 10, 12] : [38, 10, 38];
    const points = series.flatMap((each) => each.points);
    const xs = points.map(([x]) => x);
    const ys = [...points.map(([, y]) => y), ...rules.map(({ y }) => y)];
    const [x0, x1] = data.xRange ?? [Math.min(...xs), Math.max(...xs)];
    const [y0, y1] = data.yRange ?? spread(Math.min(...ys), Math.max(...ys));
    /** @param {number} x */
    const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
    /** @param {number} y */
    const py = (y) => height - down - ((y - y0) / (y1 - y0 || 1)) * (height - up - down);
    /** @type {SVGElement[]} */
    const parts = [];
    /** @type {SVGElement|null} */
    let lit = null;
    if (!plain) {
      const inner = { x: left, y: up, width: width - left - right, height: height - up - down };
      parts.push(s("clipPath", { id: clip }, s("rect", inner)));
      for (const y of ticks(y0, y1, 5)) {
        parts.push(
          s("line", { x1: left, x2: width - right, y1: py(y), y2: py(y), class: "grid" }),
          s("text", { x: left - 6, y: py(y) + 4, class: "side" }, String(Number(y.toFixed(6)))),
        );
      }
      for (const x of ticks(x0, x1, width < 480 ? 3 : 6)) {
        parts.push(s("text", { x: px(x), y: height - 18, class: "letter small" }, x.toLocaleString("en-GB")));
      }
      parts.push(
        s("line", { x1: left, x2: width - right, y1: height - down, y2: height - down, class: "axis" }),
        s("text", { x: (left + width - right) / 2, y: height - 3, class: "letter small" }, data.xName),
      );
    }
    /** @type {{y: number, text: string}[]} */
    const names = [];
    for (const rule of rules) {
      parts.push(
        s("line", {
          x1: left,
          x2: width - right,
          y1: py(rule.y),
          y2: py(rule.y),
          class: "rule",
          "stroke-dasharray": rule.dash,
        }),
      );
      names.push({ y: py(rule.y), text: rule.name });
    }
    series.forEach((each) => {
      const path = each.points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)},${py(y).toFixed(1)}`);
      if (each.kind === "line" || each.kind === "faint" || each.kind === "marked") {
        parts.push(s("path", { d: path.join(""), class: `stroke ${each.kind}`, "clip-path": plain ? null : `url(#${clip})` }));
      }
      if (each.kind === "dots" || each.kind === "marked") {
        for (const [x, y] of each.points) {
          parts.push(s("circle", { cx: px(x), cy: py(y), r: 3.5, class: "dot" }));
        }
      }
      if (each.kind === "names" || each.labels) {
        each.points.forEach(([x, y], i) => {
          const here = i === data.lit;
          const point = s(
            "g",
            { "data-key": i, class: here ? "point lit" : "point" },
            s("circle", { cx: px(x), cy: py(y), r: here ? 13 : 11, class: "slot" }),
            s("text", { x: px(x), y: py(y) + 5, class: "letter" }, each.labels?.[i] ?? ""),
          );
          if (here) lit = point;
          else parts.push(point);
        });
      }
      const last = each.points[each.points.length - 1];
      if (each.name && last && !plain) names.push({ y: py(last[1]), text: each.name });
    });
    if (data.cursor !== null && data.cursor !== undefined && points.length) {
      const x = px(data.cursor);
      parts.push(
        s("line", { x1: x, x2: x, y1: up, y2: height - down, class: "cursor" }),
        s("path", { d: `M${x - 5},${up - 6} h10 l-5,8 z`, class: "dot" }),
      );
    }
    if (lit) parts.push(lit); // above those that it would be hidden by
    names.sort((a, b) => a.y - b.y);
    names.forEach((each, i) => {
      if (i) each.y = Math.max(each.y, names[i - 1].y + 15);
    });
    for (const each of names) {
      parts.push(s("text", { x: width - right + 8, y: each.y + 4, class: "name" }, each.text));
    }
    return { height, description: data.description, parts };
  }

  if (does.look) {
    const look = does.look;
    made.svg.addEventListener("pointerover", (event) => {
      const found = /** @type {Element} */ (event.target).closest("[data-key]")?.getAttribute("data-key");
      if (found !== null && found !== undefined) look(Number(found));
    });
  }
  return made;
}

/**
 * A range with some room at its ends.
 * @param {number} least
 * @param {number} most
 * @returns {[number, number]}
 */
function spread(least, most) {
  const room = (most - least || 1) * 0.06;
  return [least - room, most + room];
}
