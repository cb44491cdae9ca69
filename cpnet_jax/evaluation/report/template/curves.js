"use strict";
// Curves over steps, as evaluation/report/curves.py describes them: drawCurves(element, payload). All panels share the
// shown range of steps and the cursor.

const drawCurves = (() => {

// Of a panel, in the units of its SVG.
const SIZE = { width: 360, height: 190, left: 46, right: 10, top: 8, bottom: 22 };
const COLOURS = 6;
// A line of at most as many visible points shows them.
const MOST_DOTS = 40;
// Milliseconds between two clicks that are one double click.
const DOUBLE_CLICK = 500;

function draw(element, { runs, panels }) {
  const several = runs.length > 1;
  const steps = [...new Set(panels.flatMap(({ lines }) => lines.flatMap(({ x }) => x)))].sort((a, b) => a - b);
  if (!steps.length) return;
  const all = steps.length > 1 ? [steps[0], steps.at(-1)] : [steps[0] - 1, steps[0] + 1];
  let range = all; // of steps shown
  let cursor = null; // a step, or null

  const style = ({ run, of }) => {
    const colour = several ? run : of === "validation" ? 1 : 0;
    // With several runs, colours tell the runs apart, and dashes validation from training.
    return { colour: `var(--line-${colour % COLOURS})`, dash: several && of === "validation" ? "5 3" : null };
  };
  const label = ({ run, of }) => (several ? `${isolated(runs[run])}, ${of}` : of);

  const bar = html("div", { class: "curves-bar" });
  const buttons = {};
  for (const [name, title, act] of [
    ["in", "Zoom in", () => zoom(0.5)],
    ["out", "Zoom out", () => zoom(2)],
    ["reset", "Whole run", () => show(all)],
  ]) {
    buttons[name] = html("button", { type: "button" }, title);
    buttons[name].addEventListener("click", act);
  }
  bar.append(...legend(panels, label, style), ...Object.values(buttons));
  const grid = html("div", { class: "curves-panels" });
  const plots = panels.map((panel) => plot(panel));
  grid.append(...plots.map(({ figure }) => figure));
  element.replaceChildren(bar, grid);
  show(all);

  function show([from, to]) {
    const least = Math.min(1, all[1] - all[0]);
    if (to - from < least) [from, to] = [(from + to - least) / 2, (from + to + least) / 2];
    const width = Math.min(to - from, all[1] - all[0]);
    from = Math.min(Math.max(from, all[0]), all[1] - width);
    range = [from, from + width];
    const whole = width >= all[1] - all[0];
    buttons.reset.disabled = buttons.out.disabled = whole;
    buttons.in.disabled = width <= least;
    plots.forEach(({ draw }) => draw());
    point(cursor);
  }

  function zoom(factor) {
    const [from, to] = range;
    const middle = cursor !== null && cursor >= from && cursor <= to ? cursor : (from + to) / 2;
    show([middle - (middle - from) * factor, middle + (to - middle) * factor]);
  }

  function point(step) {
    cursor = step;
    plots.forEach(({ mark }) => mark());
  }

  function move(count) {
    const shown = steps.filter((step) => step >= range[0] && step <= range[1]);
    if (!shown.length) return;
    const at = cursor === null ? (count > 0 ? -1 : shown.length) : shown.indexOf(nearest(shown, cursor));
    point(shown[Math.min(Math.max(at + count, 0), shown.length - 1)]);
  }

  function plot({ title, share, lines }) {
    const { width, height, left, right, top, bottom } = SIZE;
    const figure = html("figure", { class: "curves-panel" });
    const values = html("p", { class: "curves-values" });
    const picture = svg("svg", {
      viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img",
      "aria-label": `${title} by step. Arrow keys move between points, plus and minus zoom, Escape shows the whole run.`,
    });
    figure.append(html("h3", {}, title), values, picture);
    const format = (value) => (share ? `${(100 * value).toFixed(2)} %` : short(value));
    const toX = (step) => left + ((step - range[0]) / (range[1] - range[0])) * (width - left - right);
    const toStep = (x) => range[0] + ((x - left) / (width - left - right)) * (range[1] - range[0]);
    let toY = () => 0;

    function draw() {
      const [low, high] = extent(lines, range);
      toY = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
      const box = { x: left, y: top, width: width - left - right, height: height - top - bottom };
      // An inner picture, because it ends lines at its edge; a little larger, so that points on the edge are whole.
      const outer = [box.x - 5, box.y - 5, box.width + 10, box.height + 10];
      const inside = svg("svg", { x: outer[0], y: outer[1], width: outer[2], height: outer[3], viewBox: outer.join(" ") });
      const below = [svg("rect", { class: "plot", ...box })];
      for (const value of ticks(low, high, 4)) {
        const y = toY(value);
        below.push(svg("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }));
        below.push(svg("text", { x: left - 5, y, "text-anchor": "end", "dominant-baseline": "central" },
          share ? `${+(100 * value).toPrecision(4)} %` : short(value)));
      }
      for (const step of ticks(...range, 4)) {
        if (!Number.isInteger(step)) continue;
        const x = toX(step);
        below.push(svg("line", { class: "grid", x1: x, x2: x, y1: top, y2: height - bottom }));
        below.push(svg("text", { x: Math.min(x, width - right - 12), y: height - 7, "text-anchor": "middle" }, count(step)));
      }
      for (const line of lines) {
        const { colour, dash } = style(line);
        const points = line.x.map((step, i) => [toX(step), toY(line.y[i])]);
        const path = svg("polyline", { class: "line", points: points.map((p) => p.map((v) => v.toFixed(1)).join()).join(" ") });
        path.style.stroke = colour;
        if (dash) path.setAttribute("stroke-dasharray", dash);
        inside.append(path);
        const visible = points.filter((_, i) => line.x[i] >= range[0] && line.x[i] <= range[1]);
        if (visible.length <= MOST_DOTS) visible.forEach(([x, y]) => inside.append(dot(x, y, line.of, colour)));
      }
      picture.replaceChildren(...below, inside, svg("g", { class: "marks" }));
    }

    function mark() {
      const marks = picture.querySelector(".marks");
      marks.replaceChildren();
      values.replaceChildren();
      const chosen = cursor !== null && lines.map((line) => [line, at(line, cursor, range)]).filter(([, i]) => i !== null);
      const found = chosen?.length ? chosen : lines.map((line) => [line, line.x.length - 1]);
      values.append(found === chosen ? `Step ${count(cursor)}:` : "Last:");
      for (const [line, i] of found) {
        const { colour } = style(line);
        const name = html("span", { class: several ? "curves-hidden" : "" }, label(line));
        const value = html("span", { class: "curves-value" });
        value.append(sign(line.of, colour, 10), name, " ", html("b", {}, format(line.y[i])));
        values.append(" ", value);
        if (found !== chosen) continue;
        if (line.x[i] !== cursor) value.append(` (at ${count(line.x[i])})`);
        marks.append(dot(toX(line.x[i]), toY(line.y[i]), line.of, colour, 4));
      }
      if (found !== chosen) return;
      const x = toX(cursor);
      marks.prepend(svg("line", { class: "cursor", x1: x, x2: x, y1: top, y2: height - bottom }));
    }

    listen(picture, { toStep, steps, point, show, zoom, move, shown: () => range, all });
    return { figure, draw, mark };
  }
}

// Dragging chooses the steps to show; the wheel is left to the page.
function listen(picture, { toStep, steps, point, show, zoom, move, shown, all }) {
  const { height, left, right, top, bottom, width } = SIZE;
  let began = null;
  let tapped = -Infinity;
  const place = ({ clientX }) => {
    const box = picture.getBoundingClientRect();
    const x = ((clientX - box.left) * width) / box.width;
    return Math.min(Math.max(x, left), width - right);
  };
  picture.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    began = place(event);
    picture.setPointerCapture(event.pointerId);
    point(nearest(steps, toStep(began)));
  });
  picture.addEventListener("pointermove", (event) => {
    const x = place(event);
    point(nearest(steps, toStep(x)));
    if (began === null) return;
    const marks = picture.querySelector(".marks");
    marks.append(svg("rect", {
      class: "chosen", x: Math.min(began, x), y: top, width: Math.abs(x - began), height: height - top - bottom,
    }));
  });
  picture.addEventListener("pointerup", (event) => {
    const x = place(event);
    const chosen = began !== null && Math.abs(x - began) > 6 ? [began, x].sort((a, b) => a - b).map(toStep) : null;
    began = null;
    // Counted here, since a double tap is not a dblclick everywhere.
    const twice = !chosen && event.timeStamp - tapped < DOUBLE_CLICK;
    tapped = chosen || twice ? -Infinity : event.timeStamp;
    if (twice) show(all);
    else if (chosen) show(chosen);
    else point(nearest(steps, toStep(x)));
  });
  picture.addEventListener("pointercancel", () => { began = null; });
  picture.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && began === null && point(null));
  picture.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [from, to] = shown();
    const tenth = (to - from) / 10;
    const keys = {
      ArrowLeft: () => (event.shiftKey ? show([from - tenth, to - tenth]) : move(-1)),
      ArrowRight: () => (event.shiftKey ? show([from + tenth, to + tenth]) : move(1)),
      Home: () => move(-Infinity),
      End: () => move(Infinity),
      "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
      Escape: () => { point(null); show(all); }, 0: () => show(all),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}

function legend(panels, label, style) {
  const shown = new Map();
  for (const { lines } of panels) for (const line of lines) shown.set(label(line), line);
  return [...shown].map(([name, line]) => {
    const { colour, dash } = style(line);
    const key = html("span", { class: "curves-key" });
    key.append(sign(line.of, colour, 30, dash), name);
    return key;
  });
}

// The sign of a line in the legend, or its point alone.
function sign(of, colour, width, dash) {
  const picture = svg("svg", { class: "sign", viewBox: `0 0 ${width} 10`, width, height: 10, "aria-hidden": true });
  const path = svg("line", { class: "line", x1: 0, x2: width, y1: 5, y2: 5 });
  path.style.stroke = colour;
  if (dash) path.setAttribute("stroke-dasharray", dash);
  if (width > 10) picture.append(path);
  picture.append(dot(width / 2, 5, of, colour, width > 10 ? 2.5 : 4));
  return picture;
}

// Round for training and square for validation.
function dot(x, y, of, colour, radius = 2.5) {
  const shape = of === "validation"
    ? svg("rect", { class: "dot", x: x - radius, y: y - radius, width: 2 * radius, height: 2 * radius })
    : svg("circle", { class: "dot", cx: x, cy: y, r: radius });
  shape.style.fill = colour;
  return shape;
}

// The lowest and highest visible value, with some space; neighbours outside are left out.
function extent(lines, [from, to]) {
  let low = Infinity;
  let high = -Infinity;
  for (const { x, y } of lines) {
    x.forEach((step, i) => {
      if (step < from || step > to) return;
      low = Math.min(low, y[i]);
      high = Math.max(high, y[i]);
    });
  }
  if (low > high) return [0, 1];
  const space = 0.06 * (high - low || Math.abs(high) || 1);
  return [low - space, high + space];
}

function ticks(low, high, about) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(low / unit);
  const last = Math.floor(high / unit);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => Number(((first + i) * unit).toPrecision(12)));
}

function nearest(sorted, value) {
  return sorted.reduce((best, other) => (Math.abs(other - value) < Math.abs(best - value) ? other : best));
}

// Index of a line's point nearest to a step; null if the step is far from all that are visible.
function at({ x }, step, [from, to]) {
  if (step === null) return null;
  let best = null;
  x.forEach((other, i) => {
    if (other < from || other > to) return;
    if (best === null || Math.abs(other - step) < Math.abs(x[best] - step)) best = i;
  });
  return best;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size && size < 1e-3)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

function count(step) {
  return Math.round(step).toLocaleString("en");
}

// A name that does not reorder what stands beside it, see environment.py.
function isolated(name) {
  return `\u2068${name}\u2069`;
}

function html(tag, attributes = {}, text = "") {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  if (text) found.textContent = text;
  return found;
}

function svg(tag, attributes = {}, text = "") {
  const found = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  if (text) found.textContent = text;
  return found;
}

return draw;
})();
