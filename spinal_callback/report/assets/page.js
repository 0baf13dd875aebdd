// The page itself: which pictures there are, and what the slider, the choice of runs and the mode do to them.
const RUNS = JSON.parse(document.getElementById("data").textContent);
const STEPS = [...new Set(RUNS.flatMap((run) => run.steps))].sort((a, b) => a - b);
const state = { step: STEPS[STEPS.length - 1], hidden: new Set(), mode: "level", map: 0 };
const byId = (id) => document.getElementById(id);
const shown = () => RUNS.map((run, i) => [run, i]).filter(([, i]) => !state.hidden.has(i));
const alertsShown = () => shown().flatMap(([run]) => run.alerts.map((alert) => ({ ...alert, run: run.name })));
const minus = (a, b) => a.map((v, i) => (known(v) && known(b[i]) ? v - b[i] : null));
const DEPTH = { alpha: 1, transport: 2 };  // the layer that the first value of a list belongs to
const NAMES = { alpha: "Contraction (alpha)", transport: "Transport (rad)" };
const charts = [], maps = [], depths = [];

function goTo(step) {
  byId("step").value = nearest(STEPS, step);
  state.step = STEPS[byId("step").value];
  moved();
}

// --- against layer

// The same axis at every step: one that follows the values hides how far they move.
const domains = {};
function domain(key) {
  const name = key + state.mode + [...state.hidden];
  return (domains[name] ||= extent(shown().flatMap(([run]) => run[key].flatMap((row, i) => (
    state.mode === "change" ? minus(row, run[key][0]) : withBand(row, run[`${key}_se`][i])))), 0.06));
}
const withBand = (row, errors) => row.flatMap((v, k) => (known(v) && known(errors[k]) ? [v - errors[k], v + errors[k]] : [v]));

function depthSpec(key) {
  const visible = shown(), change = state.mode === "change", series = [];
  for (const [run, i] of visible) {
    const x = run[key][0].map((_, k) => k + DEPTH[key]), at = upto(run.steps, state.step), start = run[key][0];
    series.push({ run: i, name: `step ${run.steps[0]}`, x, y: change ? minus(start, start) : start, start: true });
    series.push({
      run: i, x, name: (visible.length > 1 ? `${run.name}, ` : "") + `step ${run.steps[at]}`,
      y: change ? minus(run[key][at], start) : run[key][at], se: change ? null : run[`${key}_se`][at],
    });
  }
  const late = visible.length ? visible[0][0].window : null;
  return { series, domain: domain(key), late, xName: "layer", sign: change, alone: RUNS.length === 1 };
}

// --- against step

function stepSpec(pick, options = {}) {
  return () => ({
    series: shown().map(([run, i]) => ({ run: i, name: RUNS.length > 1 ? run.name : options.name, x: run.steps, ...pick(run) })),
    alerts: alertsShown(), cursor: state.step, xName: "step", alone: RUNS.length === 1, ...options,
  });
}
const series = (key) => (run) => ({ y: run.series[key] });
const trainer = (key) => (run) => ({ y: run.trainer[key] || run.steps.map(() => null) });

function stepChart(host, title, pick, options = {}) {
  charts.push(curves(byId(host), title, host === "late" ? 230 : 150, stepSpec(pick, { name: title, ...options }), goTo));
}

function makeCharts() {
  for (const key of ["alpha", "transport"]) depths.push(curves(byId("depth"), NAMES[key], 280, () => depthSpec(key)));
  for (const [key, unit] of [["alpha", ""], ["transport", " (rad)"]]) {
    const word = key === "alpha" ? "contraction" : "transport";
    stepChart("late", `Late ${word}, change${unit}`, (run) => ({ y: run.series[`delta_${key}`], se: run.series[`delta_${key}_se`] }), { sign: true });
  }
  for (const diverging of [false, true]) {
    for (const key of ["alpha", "transport"]) {
      maps.push(map(byId("maps"), NAMES[key] + (diverging ? ", change" : ""), 240, () => mapSpec(key, diverging), goTo));
    }
  }
  const terms = { score: "Score", delta_align: "delta_align", coherence: "Coherence of the path", gradient_concentration: "Gradient in the late layers" };
  for (const [key, title] of Object.entries(terms)) stepChart("score", title, series(key));
  const more = {
    displacement: "Displacement (rad)", entropy: "Entropy (nats)", late_rank: "Effective rank, late layers",
    localization: "Change in the late layers", seconds: "Seconds per probe",
  };
  for (const [key, title] of Object.entries(more)) stepChart("more", title, series(key));
  // At step 0 nothing but the probe has run: its 100 % would flatten the rest.
  stepChart("more", "Overhead (% of the run)", (run) => ({ y: run.series.overhead.map((v, i) => (known(v) && run.steps[i] > 0 ? 100 * v : null)) }));
  if (RUNS.some((run) => run.series.nonfinite.some((n) => n > 0))) stepChart("more", "NaN and Inf", series("nonfinite"));
  for (const key of [...new Set(RUNS.flatMap((run) => Object.keys(run.trainer)))]) stepChart("more", `Trainer's ${key}`, trainer(key));
}

function mapSpec(key, diverging) {
  const run = RUNS[state.map], rows = run[key];
  return {
    rows: diverging ? rows.map((row) => minus(row, rows[0])) : rows, steps: run.steps, first: DEPTH[key], late: run.window,
    alerts: run.alerts, cursor: state.step, diverging,
  };
}

// --- tables: the same numbers for who cannot see or point

function table(caption, head, rows) {
  const line = (cell) => (row) => html("tr", null, ...row.map((text, i) => html(i && cell === "td" ? "td" : "th", { scope: cell === "th" ? "col" : i ? null : "row" }, text)));
  return html("table", { class: "numbers" }, html("caption", null, caption), html("thead", null, line("th")(head)), html("tbody", null, ...rows.map(line("td"))));
}

function layersTable() {
  return shown().map(([run]) => {
    const at = upto(run.steps, state.step), head = ["layer", "alpha", "± se", "change", "transport", "± se", "change"];
    const rows = run.alpha[at].map((_, k) => [`${k + 1}`, ...["alpha", "transport"].flatMap((key) => {
      const i = k + 1 - DEPTH[key], value = run[key][at][i], start = run[key][0][i];
      return [show(value), show(run[`${key}_se`][at][i]), show(known(value) && known(start) ? value - start : null, true)];
    })]);
    return table(`${run.name}, step ${run.steps[at]}`, head, rows);
  });
}

function stepsTable() {
  return shown().map(([run]) => {
    const keys = Object.keys(run.series), logged = Object.keys(run.trainer);
    const rows = run.steps.map((step, i) => [`${step}`, ...keys.map((key) => show(run.series[key][i])), ...logged.map((key) => show(run.trainer[key][i]))]);
    return table(run.name, ["step", ...keys, ...logged], rows);
  });
}

// Made when opened: a thousand rows that nobody looks at cost nothing.
function lazily(id, make) {
  const fillIn = () => byId(id).open && byId(id).querySelector(".scroll").replaceChildren(...make());
  byId(id).addEventListener("toggle", fillIn);
  return fillIn;
}
const fillLayers = lazily("layers-table", layersTable), fillSteps = lazily("steps-table", stepsTable);

// --- what a person does

function moved() {
  const words = `step ${state.step}`;
  byId("at").textContent = `${state.step}`;
  byId("step").setAttribute("aria-valuetext", words);
  depths.forEach((chart) => chart.draw());
  [...charts, ...maps].forEach((chart) => chart.point(state.step));
  fillLayers();
}

function redraw() {
  [...depths, ...charts, ...maps].forEach((chart) => chart.draw());
  moved();
  fillSteps();
}

function controls() {
  const slider = byId("step");
  slider.max = STEPS.length - 1;
  slider.value = STEPS.length - 1;
  slider.disabled = STEPS.length < 2;
  slider.addEventListener("input", () => { state.step = STEPS[slider.value]; moved(); });
  byId("mode").addEventListener("change", (event) => { state.mode = event.target.value; depths.forEach((chart) => chart.draw()); });
  document.querySelectorAll(".verdict .swatch").forEach((node, i) => node.style.setProperty("--colour", colour(i)));
  if (RUNS.length < 2) return;
  byId("runs").hidden = byId("which").hidden = false;
  RUNS.forEach((run, i) => {
    const box = html("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](i); redraw(); });
    const sample = svg("svg", { width: 26, height: 8, style: "width: 26px", "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, style: `stroke: ${colour(i)}; stroke-width: 3; stroke-dasharray: ${dash(i)}` }));
    byId("runs").append(html("label", null, box, sample, run.name));
    byId("run").append(html("option", { value: i }, run.name));
  });
  byId("run").addEventListener("change", (event) => { state.map = Number(event.target.value); maps.forEach((chart) => chart.draw()); });
}

function notes() {
  const differ = (key) => new Set(RUNS.map((run) => JSON.stringify(run[key]))).size > 1, said = [];
  if (differ("model")) said.push("The runs are of different models: compare changes, not levels.");
  if (differ("probe")) said.push("The runs were probed with different prompts: compare changes, not levels.");
  if (differ("window")) said.push(`The late windows differ; the shaded one is that of ${RUNS[0].name}.`);
  byId("notes").textContent = said.join(" ");
  byId("notes").hidden = !said.length;
}

controls();
notes();
makeCharts();
redraw();
let width = innerWidth, waiting = 0;
addEventListener("resize", () => {
  if (innerWidth === width) return;  // a phone's address bar comes and goes with the scrolling
  width = innerWidth;
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redraw);
});
dark.addEventListener("change", () => maps.forEach((chart) => chart.draw()));
