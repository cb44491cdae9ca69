"use strict";
// Optional: the page shows the same content without it.

function sortable(table) {
  const body = table.tBodies[0];
  const headings = [...table.querySelectorAll("th[data-sort]")];
  const original = [...body.rows];
  let column = 0;
  for (const heading of headings) {
    const cell = column;
    column += heading.colSpan;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = heading.dataset.sort === "number";
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const before = heading.getAttribute("aria-sort");
      const next = before === first ? second : before === second ? null : first;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      const rows = [...original];
      if (next) {
        heading.setAttribute("aria-sort", next);
        const value = (row) => row.cells[cell].dataset.value;
        const sign = next === "ascending" ? 1 : -1;
        const order = (a, b) => sign * (numeric ? a - b : a.localeCompare(b));
        // Empty values come last in both directions.
        rows.sort((a, b) => (value(a) === "") - (value(b) === "") || order(value(a), value(b)));
      }
      body.append(...rows);
    });
  }
}

function explainMatrix(svg) {
  const { classes, confusion } = JSON.parse(document.getElementById("confusion-data").textContent);
  const totals = confusion.map((row) => row.reduce((sum, count) => sum + count, 0));
  const tooltip = document.getElementById("tooltip");
  const margin = Number(svg.dataset.margin);
  const cell = Number(svg.dataset.cell);
  const extent = cell * classes.length;
  const [across, down] = svg.querySelectorAll(".pointer");
  const place = (rect, box) => {
    for (const [name, value] of Object.entries(box)) rect.setAttribute(name, value);
    rect.removeAttribute("hidden");
  };
  const hide = () => [tooltip, across, down].forEach((element) => element.setAttribute("hidden", ""));
  // On touch screens the tooltip stays after the finger is lifted.
  svg.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && hide());
  document.addEventListener("scroll", hide, { capture: true, passive: true });
  for (const event of ["pointermove", "pointerdown"]) {
    svg.addEventListener(event, ({ clientX, clientY }) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const j = Math.floor(((clientX - box.left) * scale - margin) / cell);
      const i = Math.floor(((clientY - box.top) * scale - margin) / cell);
      if (i < 0 || j < 0 || i >= classes.length || j >= classes.length) return hide();
      place(across, { x: margin, y: margin + i * cell, width: extent, height: cell });
      place(down, { x: margin + j * cell, y: margin, width: cell, height: extent });
      const count = confusion[i][j];
      const share = totals[i] ? `${((100 * count) / totals[i]).toFixed(2)} % of its pixels (${count.toLocaleString("en")})` : "no labelled pixel";
      const [label, predicted] = [i, j].map((k) => `\u2068${classes[k]}\u2069`); // isolated, see page.py
      tooltip.textContent = i === j ? `${label}, correct: ${share}` : `${label}, predicted as ${predicted}: ${share}`;
      tooltip.hidden = false;
      tooltip.style.left = `${Math.max(4, Math.min(clientX + 14, innerWidth - tooltip.offsetWidth - 4))}px`;
      tooltip.style.top = `${Math.max(4, Math.min(clientY + 14, innerHeight - tooltip.offsetHeight - 4))}px`;
    });
  }
}

function enlargeable(sample) {
  const panes = [...sample.querySelectorAll(".panes, .pairs")];
  if (!panes.length) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "enlarge";
  button.textContent = "Larger";
  button.setAttribute("aria-pressed", "false");
  const toggle = () => {
    panes.forEach((each) => each.classList.toggle("large"));
    button.setAttribute("aria-pressed", String(panes[0].classList.contains("large")));
  };
  button.addEventListener("click", toggle);
  sample.querySelectorAll(".panes").forEach((each) => {
    each.addEventListener("click", toggle);
    each.classList.add("zoom");
  });
  sample.querySelector(".figures").append(button);
}

function withData(name, draw) {
  const data = document.getElementById(`${name}-data`);
  if (data) draw(document.getElementById(name), JSON.parse(data.textContent));
}

