// The page itself: which charts there are, and what the slider, the choice of runs and the mode do to them.
const DATA = JSON.parse(document.getElementById("data").textContent), RUNS = DATA.runs, CURVES = DATA.labels.curves;
const STEPS = [...new Set(RUNS.flatMap((run) => run.steps))].sort((a, b) => a - b);
const byId = (id) => document.getElementById(id);
const state = { step: STEPS[STEPS.length - 1], hidden: new Set(), mode: STEPS.length > 1 ? "change" : "level", map: 0 };
const shown = () => RUNS.map((run, i) => [run, i]).filter(([, i]) => !state.hidden.has(i));
const alertsShown = () => shown().flatMap(([run]) => run.alerts.map((alert) => ({ ...alert, run: run.name })));
const minus = (a, b) => a.map((v, i) => (known(v) && known(b[i]) ? v - b[i] : null));
const charts = [], maps = [], depths = [];

function goTo(step) {
  byId("step").value = nearest(STEPS, step);
  state.step = STEPS[byId("step").value];
  moved();
}

// --- against layer

// What the depth trace shows of one reading: the layers' values, or their changes; each with its own standard error.
function depthRow(run, key, i) {
  if (state.mode === "change") return { y: minus(run[key][i], run[key][0]), se: run[`${key}_change_se`][i] };
  return { y: run[key][i], se: run[`${key}_se`][i] };
}

// The same axis at every step: one that follows the values hides how far they move.
const domains = {};
function domain(key) {
  const name = key + state.mode + [...state.hidden];
  return (domains[name] ||= extent(shown().flatMap(([run]) => run.steps.flatMap((_, i) => withBand(depthRow(run, key, i)))), 0.06));
}
const withBand = ({ y, se }) => y.flatMap((v, k) => (known(v) && known(se[k]) ? [v - se[k], v + se[k]] : [v]));

function depthSpec(key) {
  const visible = shown(), series = [];
  for (const [run, i] of visible) {
    const x = run[key][0].map((_, k) => k + CURVES[key].first), at = upto(run.steps, state.step);
    if (state.mode === "level") series.push({ run: i, name: `step ${run.steps[0]}`, x, y: run[key][0], start: true });
    series.push({ run: i, x, name: (visible.length > 1 ? `${run.name}, ` : "") + `step ${run.steps[at]}`, ...depthRow(run, key, at) });
  }
  const late = visible.length ? visible[0][0].window : null;
  return { series, domain: domain(key), late, xName: "layer", sign: state.mode === "change", alone: RUNS.length === 1 };
}

// What the caption of the depth trace promises is what is drawn: traces of earlier versions have no errors of changes.
function depthWords() {
  if (state.mode === "level") return "Each layer at the step of the slider; the thin line, the start. Band: one standard error of the layer's own value. Shaded: the late window.";
  const without = RUNS.filter((run) => !run.alpha_change_se.some((row) => row.length));
  const band = "Band: one standard error of the change, paired by prompt";
  const none = RUNS.length > 1 ? without.map((run) => run.name).join(", ") : "this trace";
  const words = !without.length ? `${band}.` : without.length < RUNS.length ? `${band}; not recorded in ${none}.` : `No band: ${none} has no standard errors of the changes by layer.`;
  return `Change of each layer since the start, at the step of the slider. ${words} Shaded: the late window.`;
}

function drawDepths() {
  byId("depth-words").textContent = depthWords();
  depths.forEach((chart) => chart.draw());
}

// --- against step

function stepChart(host, title, pick, options = {}) {
  const spec = () => ({
    series: shown().map(([run, i]) => ({ run: i, name: RUNS.length > 1 ? run.name : title, x: run.steps, ...pick(run) })),
    across: extent(shown().flatMap(([run]) => run.steps)), alerts: alertsShown(), cursor: state.step, xName: "step",
    alone: RUNS.length === 1, sign: options.sign,
    missing: [...new Set(shown().map(([run]) => run.missing[options.field]))].filter(Boolean).join("; "),
  });
  charts.push(curves(byId(host), title, host === "late" ? 230 : 150, spec, goTo));
}
const ofSeries = (field) => (run) => ({ y: run.series[field] });

function makeCharts() {
  for (const key in CURVES) depths.push(curves(byId("depth"), CURVES[key].title, 280, () => depthSpec(key)));
  for (const key in CURVES) {
    const unit = CURVES[key].unit && ` (${CURVES[key].unit})`;
    stepChart("late", `Late ${CURVES[key].name}, change${unit}`, (run) => ({ y: run.series[`delta_${key}`], se: run.series[`delta_${key}_se`] }), { sign: true });
  }
  for (const diverging of [false, true]) {
    for (const key in CURVES) {
      maps.push(map(byId("maps"), CURVES[key].title + (diverging ? ", change" : ""), 240, () => mapSpec(key, diverging), goTo));
    }
  }
  const answered = RUNS.some((run) => Object.keys(DATA.labels.answers).some((field) => run.series[field].some(known)));
  if (!answered) byId("answers").closest("details").remove();
  for (const host of answered ? ["score", "answers", "more"] : ["score", "more"]) {
    for (const [field, title] of Object.entries(DATA.labels[host])) {
      stepChart(host, title, field === "overhead" ? overhead : ofSeries(field), { field });
    }
  }
  if (RUNS.some((run) => run.series.nonfinite.some((n) => n > 0))) stepChart("more", "NaN and Inf", ofSeries("nonfinite"));
  for (const key of [...new Set(RUNS.flatMap((run) => Object.keys(run.trainer)))]) {
    stepChart("more", `Trainer's ${key}`, (run) => run.trainer[key] || { y: run.steps.map(() => null) });
  }
}

// At step 0 nothing but the probe has run: its 100 % would flatten the rest.
const overhead = (run) => ({ y: run.series.overhead.map((v, i) => (known(v) && run.steps[i] > 0 ? 100 * v : null)) });

function mapSpec(key, diverging) {
  const run = RUNS[state.map], rows = run[key];
  return {
    rows: diverging ? rows.map((row) => minus(row, rows[0])) : rows, steps: run.steps, first: CURVES[key].first, late: run.window,
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
    const at = upto(run.steps, state.step), head = ["layer", ...Object.values(CURVES).flatMap((curve) => [curve.name, "± se", "change", "± se"])];
    const entropy = run.layer_entropy[at];
    if (entropy.length) head.push("entropy (nats)");
    const rows = run.alpha[at].map((_, k) => [`${k + 1}`, ...Object.entries(CURVES).flatMap(([key, curve]) => {
      const i = k + 1 - curve.first, value = run[key][at][i], start = run[key][0][i];
      return [show(value), show(run[`${key}_se`][at][i]), show(known(value) && known(start) ? value - start : null, true), show(run[`${key}_change_se`][at][i])];
    }), ...entropy.slice(k, k + 1).map((value) => show(value))]);
    return table(`${run.name}, step ${run.steps[at]}`, head, rows);
  });
}

function stepsTable() {
  return shown().flatMap(([run]) => {
    const keys = Object.keys(run.series), logged = Object.keys(run.trainer);
    const tables = [table(run.name, ["step", ...keys], run.steps.map((step, i) => [`${step}`, ...keys.map((key) => show(run.series[key][i]))]))];
    if (logged.length) {
      const steps = [...new Set(logged.flatMap((key) => run.trainer[key].x))].sort((a, b) => a - b);
      const value = (key, step) => show(run.trainer[key].y[run.trainer[key].x.indexOf(step)]);
      tables.push(table(`${run.name}: the Trainer's log`, ["step", ...logged], steps.map((step) => [`${step}`, ...logged.map((key) => value(key, step))])));
    }
    return tables;
  });
}

// A box that is larger inside says so: not every browser shows a scroll bar.
function sayWhatIsHidden(box) {
  const ways = [box.scrollWidth > box.clientWidth + 1 && "to the right", box.scrollHeight > box.clientHeight + 1 && "downwards"].filter(Boolean);
  box.previousElementSibling.hidden = !ways.length;
  box.previousElementSibling.textContent = `Scroll ${ways.join(" and ")} for more.`;
}

// Made when opened: a thousand rows that nobody looks at cost nothing.
function lazily(id, make) {
  const fillIn = () => {
    if (!byId(id).open) return;
    const box = byId(id).querySelector(".scroll");
    if (make) box.replaceChildren(...make());
    sayWhatIsHidden(box);
  };
  byId(id).addEventListener("toggle", fillIn);
  return fillIn;
}
const fillLayers = lazily("layers-table", layersTable), fillSteps = lazily("steps-table", stepsTable), fillSettings = lazily("settings-table");

// --- what a person does

function moved() {
  const words = `step ${state.step}`, checkpoint = RUNS.length === 1 && RUNS[0].checkpoints[STEPS.indexOf(state.step)];
  byId("at").textContent = state.step + (checkpoint ? `: ${checkpoint}` : "");
  byId("step").setAttribute("aria-valuetext", words);
  depths.forEach((chart) => chart.draw());
  [...charts, ...maps].forEach((chart) => chart.point(state.step));
  fillLayers();
}

function redraw() {
  drawDepths();
  [...charts, ...maps].forEach((chart) => chart.draw());
  moved();
  fillSteps();
  fillSettings();
}

function controls() {
  const slider = byId("step");
  slider.max = STEPS.length - 1;
  slider.value = STEPS.length - 1;
  slider.disabled = STEPS.length < 2;
  slider.addEventListener("input", () => { state.step = STEPS[slider.value]; moved(); });
  document.querySelector(`#mode [value=${state.mode}]`).checked = true;
  byId("mode").addEventListener("change", (event) => { state.mode = event.target.value; drawDepths(); });
  document.querySelectorAll(".verdict .swatch").forEach((node, i) => node.replaceWith(sample(i)));
  if (RUNS.length < 2) return;
  byId("runs").hidden = byId("which").hidden = false;
  RUNS.forEach((run, i) => {
    const box = html("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](i); redraw(); });
    byId("runs").append(html("label", null, box, sample(i), run.name));
    byId("run").append(html("option", { value: i }, run.name));
  });
  byId("run").addEventListener("change", (event) => { state.map = Number(event.target.value); maps.forEach((chart) => chart.draw()); });
}

// A piece of a run's line.
const sample = (i) => svg("svg", { class: "sample", viewBox: "0 0 26 8", "aria-hidden": "true" },
  svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, style: `stroke: ${colour(i)}; stroke-width: 3; stroke-dasharray: ${dash(i)}` }));

function notes() {
  const differ = (key) => new Set(RUNS.map((run) => JSON.stringify(run[key]))).size > 1, said = [];
  if (differ("model")) said.push("The runs are of different models: compare changes, not levels.");
  if (differ("probe")) said.push("The runs were probed with different prompts: compare changes, not levels.");
  if (differ("window")) said.push(`The late windows differ; the shaded one is that of ${RUNS[0].name}.`);
  byId("notes").textContent = said.join(" ");
  byId("notes").hidden = !said.length;
}

// On a phone what comes after the alerts is folded; paper shows everything.
const PARTS = [...document.querySelectorAll("details.part")];
if (matchMedia("(max-width: 560px)").matches) PARTS.forEach((part) => { part.open = false; });
addEventListener("beforeprint", () => PARTS.forEach((part) => { part.open = true; }));

controls();
notes();
makeCharts();
redraw();
PARTS.forEach((part) => part.addEventListener("toggle", redraw));  // a folded chart had no width to be drawn for
let width = innerWidth, waiting = 0;
addEventListener("resize", () => {
  if (innerWidth === width) return;  // a phone's address bar comes and goes with the scrolling
  width = innerWidth;
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redraw);
});
dark.addEventListener("change", () => maps.forEach((chart) => chart.draw()));
