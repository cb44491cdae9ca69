"use strict";
// A context prior to touch, as evaluation/report/prior.py describes it: touchPrior(element, payload). A position is
// chosen by pointing, a click or the arrow keys; its row or column of the prior is drawn over the picture, beside the
// ideal one and their difference.

const touchPrior = (() => {

const TOO_HIGH = [213, 94, 0];
const TOO_LOW = [0, 114, 178];
const HEAT_OPACITY = 0.75;

function show(element, payload) {
  element.replaceChildren(scales(payload), ...payload.images.map((image) => view(image, payload)));
}

function view(image, { heat, names, unlabelled, ideal_from }) {
  const [height, width] = image.grid;
  const { classes, frames } = image;
  const matrices = frames.map(() => null); // decoded when they are first shown
  let frame = frames.length - 1;
  let of = "row";
  let chosen = image.marks[0] ?? [Math.floor(height / 2), Math.floor(width / 2)];
  let hovered = null; // a position that the mouse points at in the picture
  let here = null; // a position that the pointer is on in another pane

  const article = make("article", "touch");
  const bar = make("div", "touch-bar");
  const panes = make("div", classes ? "touch-panes" : "touch-panes unlabelled");
  const text = make("p", "touch-text");
  const readout = make("p", "touch-small");
  const sampled = make("p", "touch-small");
  text.setAttribute("role", "status");
  panes.tabIndex = 0;
  panes.setAttribute("role", "application");
  panes.setAttribute("aria-label", `Context prior of ${isolated(image.id)}. Arrow keys move the position, R and C show its row or column.`);

  const picture = pane("picture", "");
  const prior = pane("prior", "map");
  const ideal = classes && pane("ideal", "map");
  const difference = classes && pane("prior minus ideal", "map");
  const shown = [picture, prior, ideal, difference].filter(Boolean);
  panes.append(...shown.map(({ figure }) => figure));

  const toggles = ["row", "column"].map((kind) => button(kind === "row" ? "Row" : "Column", () => { of = kind; draw(); }));
  bar.append(...toggles);
  image.marks.forEach((mark, i) => {
    const go = button(classes ? name(mark) : `Position ${i + 1}`, () => { chosen = mark; draw(); });
    go.title = `Go to row ${mark[0]}, column ${mark[1]}: ${name(mark)}`;
    if (!i) go.classList.add("apart");
    bar.append(go);
  });
  if (frames.length > 1) bar.append(slider());
  const title = make("h3", "");
  title.textContent = image.id;
  article.append(title, bar, panes, text, readout, sampled);
  listen();
  draw();
  return article;

  function slider() {
    const label = make("label", "apart");
    const input = make("input", "");
    const output = make("output", "");
    Object.assign(input, { type: "range", min: 0, max: frames.length - 1, step: 1, value: frame });
    const tell = () => {
      output.textContent = `step ${frames[frame].step.toLocaleString("en")}`;
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => { frame = Number(input.value); tell(); draw(); });
    tell();
    label.append("Evaluation", input, output);
    return label;
  }

  function pane(title, kind) {
    const figure = make("figure", "");
    const box = make("div", `touch-pane ${kind}`);
    const img = make("img", "");
    Object.assign(img, { src: image.picture.uri, alt: kind ? "" : `${isolated(image.id)}, the window`, width: image.picture.width, height: image.picture.height });
    const canvas = kind ? make("canvas", "") : null;
    const mark = make("div", "mark");
    const small = make("div", "here");
    box.append(...[img, canvas, small, mark].filter(Boolean));
    const caption = make("figcaption", "");
    caption.textContent = title;
    figure.append(box, caption);
    return { figure, box, canvas, mark, small, caption };
  }

  // The kept position whose block a position is in, as [block row, block column].
  function block([row, column]) {
    const { stride } = frames[frame];
    return [Math.floor(row / stride), Math.floor(column / stride)];
  }

  // The kept position of a block, see inference/prior_maps.py.
  function kept([down, across]) {
    const { stride, first } = frames[frame];
    return [Math.min(down * stride + first, height - 1), Math.min(across * stride + first, width - 1)];
  }

  function classOf([row, column]) {
    return classes[row * width + column];
  }

  function name(position) {
    if (!classes) return "";
    const found = classOf(position);
    return found === unlabelled ? "unlabelled" : isolated(names[found] ?? `class ${found}`);
  }

  async function draw() {
    const now = frame;
    toggles.forEach((toggle, i) => toggle.setAttribute("aria-pressed", String((of === "row") === (i === 0))));
    try {
      matrices[now] ??= unpack(frames[now].values);
      const matrix = await matrices[now];
      if (now === frame) paint(matrix, frames[now]);
    } catch (error) {
      text.textContent = `This browser cannot unpack the prior (${error.message}): use a newer one.`;
    }
  }

  function paint(matrix, { stride, figures }) {
    const [rows, columns] = [Math.ceil(height / stride), Math.ceil(width / stride)];
    const [down, across] = block(hovered ?? chosen);
    const place = kept([down, across]);
    const count = rows * columns;
    const i = down * columns + across;
    const value = (j) => matrix[of === "row" ? i * count + j : j * count + i] / 255;
    const same = (j) => Number(classOf(kept([Math.floor(j / columns), j % columns])) === classOf(place));
    fill(prior, rows, columns, stride, (j) => heated(value(j)));
    if (classes) {
      fill(ideal, rows, columns, stride, (j) => heated(same(j)));
      fill(difference, rows, columns, stride, (j) => signed(value(j) - same(j)));
    }
    for (const { mark } of shown) put(mark, place);

    prior.caption.textContent = of === "row" ? "prior: row of the position" : "prior: column of the position";
    if (ideal) ideal.caption.textContent = `ideal, by the ${ideal_from}`;
    describe(place, figures?.[i]);
    sampled.textContent = stride === 1 ? "" : `Every ${ordinal(stride)} position in each direction is kept: ${rows} x ${columns} of ${height} x ${width}.${figures ? " The figures are those of whole rows." : ""}`;
    read(here, value, same, columns);
  }

  function fill({ canvas }, rows, columns, stride, colour) {
    canvas.width = columns;
    canvas.height = rows;
    canvas.style.width = `${(100 * columns * stride) / width}%`;
    canvas.style.height = `${(100 * rows * stride) / height}%`;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    for (let j = 0; j < rows * columns; j++) pixels.data.set(colour(j), 4 * j);
    context.putImageData(pixels, 0, 0);
  }

  function heated(share) {
    const place = share * (heat.length - 1);
    const [low, high] = [heat[Math.floor(place)], heat[Math.ceil(place)]];
    return [...low.map((part, i) => Math.round(part + (high[i] - part) * (place % 1))), Math.round(255 * HEAT_OPACITY)];
  }

  function put(mark, [row, column]) {
    mark.style.left = `${(100 * (column + 0.5)) / width}%`;
    mark.style.top = `${(100 * (row + 0.5)) / height}%`;
  }

  function describe(place, figures) {
    const [row, column] = place;
    text.replaceChildren(`${of === "row" ? "Row" : "Column"} of position ${row}, ${column}`);
    if (classes) text.append(", ", strong(name(place)));
    if (!figures || of !== "row") return;
    ["precision", "recall", "specificity"].forEach((title, i) => {
      text.append(i ? ", " : ": ", `${title} `, strong(figures[i] < 0 ? "\u2013" : `${(figures[i] / 10).toFixed(1)} %`));
    });
  }

  function read(position, value, same, columns) {
    for (const { small } of shown) {
      small.hidden = !position;
      if (position) put(small, kept(block(position)));
    }
    if (!position) {
      readout.textContent = classes ? "Point at a map for the values there." : "Point at the prior for its values.";
      return;
    }
    const [down, across] = block(position);
    const j = down * columns + across;
    const there = kept([down, across]);
    readout.textContent = `At ${there.join(", ")}: prior ${value(j).toFixed(2)}`;
    if (classes) readout.textContent += `, ideal ${same(j)}, class ${name(there)}`;
  }

  function listen() {
    for (const { box } of shown) {
      const position = ({ clientX, clientY }) => {
        const edge = box.getBoundingClientRect();
        const inside = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
        return [inside((clientY - edge.top) / edge.height, height), inside((clientX - edge.left) / edge.width, width)];
      };
      box.addEventListener("pointermove", (event) => {
        if (event.pointerType !== "mouse") return;
        if (box === picture.box) hovered = position(event);
        else here = position(event);
        draw();
      });
      box.addEventListener("pointerleave", () => { hovered = here = null; draw(); });
      box.addEventListener("click", (event) => { chosen = position(event); hovered = null; draw(); });
    }
    panes.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const far = event.shiftKey ? 5 : 1;
      const moves = { ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far], ArrowRight: [0, far] };
      const kinds = { r: "row", c: "column" };
      if (moves[event.key]) step(moves[event.key]);
      else if (kinds[event.key.toLowerCase()]) of = kinds[event.key.toLowerCase()];
      else return;
      event.preventDefault();
      hovered = null;
      draw();
    });
  }

  // Moves by blocks, up to the edges.
  function step(by) {
    const { stride } = frames[frame];
    const last = [Math.ceil(height / stride) - 1, Math.ceil(width / stride) - 1];
    chosen = kept(block(chosen).map((place, axis) => Math.min(Math.max(place + by[axis], 0), last[axis])));
  }
}

// Bytes that are packed as in evaluation/report/prior.py: each byte is the change from the one a row above.
async function unpack({ packed, side }) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let i = side; i < values.length; i++) values[i] += values[i - side];
  return values;
}

function signed(change) {
  return [...(change > 0 ? TOO_HIGH : TOO_LOW), Math.round(235 * Math.abs(change))];
}

function scales({ heat, images }) {
  const found = make("p", "touch-scales");
  const bar = (before, colours, after) => {
    const span = make("span", "");
    const scale = make("i", "");
    scale.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
    span.append(before, scale, after);
    return span;
  };
  found.append(bar("prior 0", heat.map((colour) => `rgb(${colour.join()})`), "1"));
  if (images.some(({ classes }) => classes)) {
    found.append(bar("difference: too low", [`rgb(${TOO_LOW.join()})`, "rgb(128 128 128 / 25%)", `rgb(${TOO_HIGH.join()})`], "too high"));
  }
  return found;
}

function ordinal(number) {
  return { 2: "second", 3: "third" }[number] ?? `${number}th`;
}

// A name that does not reorder what stands beside it, see environment.py.
function isolated(name) {
  return `\u2068${name}\u2069`;
}

function strong(text) {
  const found = make("b", "");
  found.textContent = text;
  return found;
}

function button(title, act) {
  const found = make("button", "");
  found.type = "button";
  found.textContent = title;
  found.addEventListener("click", act);
  return found;
}

function make(tag, kind) {
  const found = document.createElement(tag);
  if (kind) found.className = kind;
  return found;
}

return show;
})();
