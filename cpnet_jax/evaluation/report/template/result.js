"use strict";
// The prediction of a picture: class colours over it, and the probabilities of the pixel that is pointed at.

function showPrediction({ classes, palette, size, pixels, likely }) {
  const [height, width] = size;
  const predicted = decoded(pixels);
  const candidates = decoded(likely.classes);
  const values = decoded(likely.values);
  const stage = document.getElementById("stage");
  const canvas = document.getElementById("classes");
  const cross = document.getElementById("cross");
  const list = document.getElementById("likely");
  const where = document.getElementById("where");
  const opacity = document.getElementById("opacity");
  let chosen = null; // [row, column]

  function draw(only) {
    const picture = new ImageData(width, height);
    predicted.forEach((k, i) => {
      const [r, g, b] = palette[k];
      picture.data.set([r, g, b, only === null || k === only ? 255 : 0], 4 * i);
    });
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  function choose(row, column) {
    chosen = [clamp(row, height), clamp(column, width)];
    cross.hidden = false;
    cross.style.top = `${(100 * (chosen[0] + 0.5)) / height}%`;
    cross.style.left = `${(100 * (chosen[1] + 0.5)) / width}%`;
    const [rows, columns] = likely.size;
    const at = Math.floor((chosen[0] * rows) / height) * columns + Math.floor((chosen[1] * columns) / width);
    where.textContent = `Row ${chosen[0]}, column ${chosen[1]}: ${isolated(classes[predicted[chosen[0] * width + chosen[1]]])}`;
    list.replaceChildren(...Array.from({ length: likely.count }, (_, place) => {
      const index = at * likely.count + place;
      return entry(candidates[index], values[index] / 255);
    }));
  }

  function entry(k, probability) {
    const item = document.createElement("li");
    const parts = ["swatch", "name", "track", "value"].map((name) => {
      const part = document.createElement("span");
      part.className = name;
      return part;
    });
    parts[0].style.background = `rgb(${palette[k].join()})`;
    parts[1].textContent = parts[1].title = classes[k];
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.width = `${100 * probability}%`;
    parts[2].append(bar);
    parts[3].textContent = `${(100 * probability).toFixed(0)} %`;
    item.append(...parts);
    return item;
  }

  for (const event of ["pointermove", "pointerdown"]) {
    stage.addEventListener(event, ({ clientX, clientY }) => {
      const box = stage.getBoundingClientRect();
      choose(Math.floor(((clientY - box.top) * height) / box.height), Math.floor(((clientX - box.left) * width) / box.width));
    });
  }
  stage.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const step = event.shiftKey ? 10 : 1;
    const [row, column] = chosen ?? [height >> 1, width >> 1];
    choose(row + step * move[0], column + step * move[1]);
  });
  opacity.addEventListener("input", () => { canvas.style.opacity = opacity.value / 100; });
  const buttons = [...document.querySelectorAll("#legend button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") === "true";
      buttons.forEach((other) => other.setAttribute("aria-pressed", "false"));
      button.setAttribute("aria-pressed", String(!pressed));
      draw(pressed ? null : Number(button.dataset.class));
    });
  }
  canvas.style.opacity = opacity.value / 100;
  draw(null);
}

function clamp(value, size) {
  return Math.min(Math.max(value, 0), size - 1);
}

function decoded(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// A name that does not reorder what stands beside it.
function isolated(name) {
  return `\u2068${name}\u2069`;
}

// The surrounding page shows the whole document.
function fitFrame() {
  if (!frameElement) return;
  document.documentElement.style.overflowY = "hidden";
  frameElement.style.height = `${Math.ceil(document.documentElement.getBoundingClientRect().height) + 1}px`;
}

showPrediction(JSON.parse(document.getElementById("prediction").textContent));
new ResizeObserver(fitFrame).observe(document.body);
