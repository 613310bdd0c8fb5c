"use strict";
// Draws the charts in the theme's colours, and lets the tables be sorted and searched.
(() => {
  const figures = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));
  const narrow = matchMedia("(max-width: 560px)");
  const coarse = matchMedia("(pointer: coarse)");
  const state = { hidden: new Set(), picks: {} };

  // Theme

  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const themeButton = document.getElementById("theme");
  let chosen = null;

  const applyTheme = () => {
    const dark = chosen === null ? systemDark.matches : chosen === "dark";
    root.dataset.theme = dark ? "dark" : "light";
    themeButton.textContent = dark ? "Light theme" : "Dark theme";
  };
  themeButton.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    applyTheme();
    redraw();
  });
  systemDark.addEventListener("change", () => {
    if (chosen === null) { applyTheme(); redraw(); }
  });

  const value = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const scale = (name) => {
    const steps = value(name).split(",").map((step) => step.trim());
    return steps.map((step, place) => [place / (steps.length - 1), step]);
  };
  const faded = (colour) => {
    const part = (start) => parseInt(colour.slice(start, start + 2), 16);
    return `rgba(${part(1)},${part(3)},${part(5)},${value("band")})`;
  };
  const series = (name, start) => value("s" + (Number(name.slice(start)) % 8));
  const colour = (name) => {
    if (/^@s\d+$/.test(name)) return series(name, 2);
    if (/^@band\d+$/.test(name)) return faded(series(name, 5));
    if (name === "@heat" || name === "@density") return scale(name.slice(1));
    return value(name.slice(1));
  };
  const painted = (found, key = "") => {
    if (typeof found === "string") return /colou?r(scale)?$/.test(key) && found[0] === "@" ? colour(found) : found;
    if (Array.isArray(found)) return found.length && typeof found[0] === "object" && found[0] ? found.map((one) => painted(one, key)) : found;
    if (found && typeof found === "object") {
      return Object.fromEntries(Object.entries(found).map(([name, one]) => [name, painted(one, name)]));
    }
    return found;
  };

  // Charts

  const axis = (own) => ({
    gridcolor: value("grid"), linecolor: value("line"), tickcolor: value("line"), automargin: true,
    fixedrange: coarse.matches, ...own,
    title: { font: { size: 12, color: value("muted") }, standoff: 6, ...(own || {}).title },
  });
  const layoutOf = (figure) => {
    const own = painted(figure.layout);
    return {
      height: 245, dragmode: coarse.matches ? false : "zoom", ...own,
      margin: { l: 44, r: 12, t: 14, b: 36 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: value("muted") },
      hoverlabel: { bgcolor: value("panel"), bordercolor: value("line"), font: { color: value("text"), size: 12 } },
      xaxis: axis(own.xaxis), yaxis: axis(own.yaxis), showlegend: false,
    };
  };
  const isHidden = (trace) => trace.meta && state.hidden.has(trace.meta.series);
  const config = {
    responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset",
  };
  const keyOf = (chart) => chart.dataset.chart
    .replace("@place", state.place)
    .replace(/@(\w+)/g, (_, name) => state.picks[name]);

  const draw = (chart) => {
    const figure = figures[keyOf(chart)];
    chart.classList.toggle("none", !figure);
    if (!figure) {
      if (chart._fullLayout) Plotly.purge(chart);
      chart.textContent = "Not in this scan.";
      return;
    }
    if (chart.classList.contains("js-plotly-plot") === false) chart.textContent = "";
    const strategies = chart.dataset.chart.startsWith("noise") ? shownStrategies(chart) : null;
    const data = painted(figure.data).map((trace) => ({
      ...trace,
      visible: strategies && trace.meta ? strategies.has(trace.meta.strategy) : !isHidden(trace),
    }));
    for (const trace of data) {
      if (trace.colorbar) {
        trace.showscale = !narrow.matches;
        trace.colorbar = { ...trace.colorbar, tickfont: { color: value("muted") } };
      }
    }
    Plotly.react(chart, data, layoutOf(figure), config);
  };

  const charts = all(".chart");
  const seen = new Set();
  const waiting = [];
  const work = () => {
    const chart = waiting.shift();
    if (chart) draw(chart);
    if (waiting.length) requestAnimationFrame(work);
    else if (!root.dataset.drawn) root.dataset.drawn = String(Math.round(performance.now()));
  };
  const later = (chart) => {
    if (waiting.includes(chart)) return;
    waiting.push(chart);
    if (waiting.length === 1) requestAnimationFrame(work);
  };
  const redraw = () => charts.filter((chart) => seen.has(chart)).forEach(later);
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !seen.has(entry.target)) {
        seen.add(entry.target);
        later(entry.target);
      }
    }
  }, { rootMargin: "400px" });

  const shownStrategies = (chart) => new Set(
    all(`.key[data-of="${chart.dataset.chart.split("/")[1]}"][aria-pressed="true"]`)
      .map((key) => key.dataset.strategy));

  // Controls

  // A chart that no choice of format could fill at this site gives way to a word.
  const possible = (chart) => {
    const pattern = chart.dataset.chart.replace("@place", state.place).replace(/@\w+/g, "[^/]+");
    return Object.keys(figures).some((key) => new RegExp(`^${pattern}$`).test(key));
  };
  const showPossible = () => {
    const missing = [];
    for (const chart of charts) {
      const figure = chart.closest("figure");
      figure.hidden = chart.dataset.chart[0] !== "n" && !possible(chart);
      if (figure.hidden && figure.dataset.name) missing.push(figure.dataset.name);
    }
    const absent = document.getElementById("absent");
    absent.hidden = !missing.length;
    absent.textContent = `Not in the scan for this site: ${missing.join(", ")}.`;
  };

  const showPlace = () => {
    state.place = document.querySelector('input[name="place"]:checked').value;
    showPossible();
    for (const section of all(".place")) section.hidden = section.dataset.place !== state.place;
    all("table.data[id]").forEach(filter);
    redraw();
  };
  all('input[name="place"]').forEach((input) => input.addEventListener("change", showPlace));
  all("select[data-pick]").forEach((select) => {
    state.picks[select.dataset.pick] = select.value;
    if (select.options.length < 2) select.hidden = true;
    select.addEventListener("change", () => {
      state.picks[select.dataset.pick] = select.value;
      charts.filter((chart) => seen.has(chart) && chart.dataset.chart.includes("@" + select.dataset.pick)).forEach(later);
    });
  });
  all(".key").forEach((key) => key.addEventListener("click", () => {
    const shown = key.getAttribute("aria-pressed") !== "true";
    key.setAttribute("aria-pressed", String(shown));
    if (key.dataset.series !== undefined) {
      const number = Number(key.dataset.series);
      if (shown) state.hidden.delete(number); else state.hidden.add(number);
      all("table.data[id]").forEach(filter);
    }
    redraw();
  }));

  // Tables

  const bad = new Set(["poor", "bad", "broken", "flagged"]);
  const order = ["ok", "at floor", "poor", "bad", "flagged", "broken"];

  const filter = (table) => {
    const words = document.querySelector(`[data-search="${table.id}"]`).value.toLowerCase().split(/\s+/).filter(Boolean);
    const onlyBad = document.querySelector(`[data-bad="${table.id}"]`).checked;
    let shown = 0, there = 0, several = false;
    for (const row of table.tBodies[0].rows) {
      const here = row.dataset.p === state.place && !state.hidden.has(Number(row.dataset.s));
      there += here;
      several = several || (here && row.cells[10].textContent !== "");
      const text = here && (words.length || onlyBad) ? Array.from(row.cells, (cell) => cell.textContent.trim().toLowerCase()) : [];
      const fits = here && (!onlyBad || bad.has(text[text.length - 1]))
        && words.every((word) => /^\d+$/.test(word) ? text[1] === word || text[0].includes(word) : text.some((cell) => cell.includes(word)));
      row.hidden = !fits;
      shown += fits;
    }
    document.querySelector(`[data-count="${table.id}"]`).textContent = `${shown} of ${there} rows`;
    table.closest("section").hidden = table.id === "tensors" && !there;
    table.classList.toggle("single", table.id === "layers" && !several);
  };
  const sortKey = (text) => {
    const word = order.indexOf(text);
    if (word >= 0) return word;
    const number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  const sort = (table, column, header) => {
    const turned = header.getAttribute("aria-sort") === "ascending";
    for (const other of all("th", table)) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", turned ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [sortKey(row.cells[column].textContent.trim()), row]);
    const blank = (key) => key === "-" || key === "";
    rows.sort(([a], [b]) => blank(a) || blank(b) ? blank(a) - blank(b) : turned ? compare(b, a) : compare(a, b));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of all("table.data")) {
    all("th", table).forEach((header, column) =>
      header.querySelector("button").addEventListener("click", () => sort(table, column, header)));
  }
  for (const input of all("[data-search], [data-bad]")) {
    const table = document.getElementById(input.dataset.search || input.dataset.bad);
    input.addEventListener("input", () => filter(table));
  }

  // Printing: every chart, in the light theme

  let before = null;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    charts.filter(possible).forEach((chart) => { seen.add(chart); draw(chart); });
  });
  addEventListener("afterprint", () => { root.dataset.theme = before; redraw(); });

  applyTheme();
  showPlace();
  // Plotly takes longer to start than all the rest: the page is on the screen before.
  requestAnimationFrame(() => setTimeout(() => {
    const plotly = document.createElement("script");
    plotly.textContent = document.getElementById("plotly").textContent;
    document.head.append(plotly);
    charts.forEach((chart) => watcher.observe(chart));
    root.dataset.ready = "yes";
  }));
})();
