"use strict";
// Theme, sorting and searching of tables, and what a pointer finds. Everything else is in the page.
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));

  // Theme: the system's until the button was pressed

  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
  const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  systemDark.addEventListener("change", label);
  button.hidden = false;
  label();

  // Series of a chart, shown or not

  for (const toggle of all(".toggle")) {
    toggle.addEventListener("click", () => {
      const shown = toggle.getAttribute("aria-pressed") !== "true";
      toggle.setAttribute("aria-pressed", String(shown));
      for (const part of all(`.plot [data-series="${toggle.dataset.series}"]`, toggle.closest("figure"))) {
        part.toggleAttribute("hidden", !shown);
      }
    });
  }

  // What a pointer finds: at once, and by touch, where the browser's own titles come late or never

  const tip = document.getElementById("tip");
  for (const title of all(".hit title")) {
    title.parentNode.dataset.tip = title.textContent.trim();
    title.remove();
  }
  addEventListener("pointerover", (event) => {
    const text = event.target.dataset?.tip;
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const { width, height } = tip.getBoundingClientRect();
    const place = event.target.getBoundingClientRect();
    const left = Math.min(Math.max(4, place.x + place.width / 2 - width / 2), innerWidth - width - 4);
    tip.style.left = `${left}px`;
    tip.style.top = `${place.y > height + 8 ? place.y - height - 6 : place.bottom + 6}px`;
  });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });

  // Tables

  const keyOf = (cell) => {
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    const text = cell.textContent.trim();
    const number = parseFloat(text.replace(/,(?=\d{3})/g, ""));
    return text === "-" ? "" : Number.isNaN(number) ? text : number;
  };
  const order = (a, b) => typeof a !== typeof b ? (typeof a === "number" ? -1 : 1)
    : typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  const sort = (table, column, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of all("th", table)) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = Array.from(table.tBodies[0].rows, (row) => [keyOf(row.cells[column]), row]);
    rows.sort(([a], [b]) => a === "" || b === "" ? (a === "") - (b === "") : down ? order(b, a) : order(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  for (const table of all(".data")) {
    all("th", table).forEach((header, column) =>
      header.firstChild.addEventListener("click", () => sort(table, column, header)));
  }
  for (const tools of all(".tools")) {
    const rows = Array.from(tools.nextElementSibling.querySelector(".data").tBodies[0].rows);
    const [input, count] = [tools.querySelector("input"), tools.querySelector("output")];
    const search = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const cells = Array.from(row.cells, (cell) => cell.textContent.trim().toLowerCase());
        // A number is a whole cell, such as a layer: 1 does not find 10 or 0.1.
        const fits = words.every((word) => cells.some((cell) => /^\d+$/.test(word) ? cell === word : cell.includes(word)));
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    tools.hidden = false;
    input.addEventListener("input", search);
    search();
  }
  root.dataset.ready = "yes";
})();
