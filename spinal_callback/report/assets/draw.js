// Elements, numbers, scales and colours: what a chart is made of. Text goes in as text, never as markup.
const NS = "http://www.w3.org/2000/svg";
const known = (v) => typeof v === "number" && isFinite(v);

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(NS, tag), attributes, children);

// 0.8123 -> "0.812", -0.002 -> "−0.002", 4e-6 -> "4.0e-6", no value -> "–".
function show(value, sign = false) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  let text = size === 0 ? "0" : size < 0.0005 ? size.toExponential(1) : size.toFixed(size >= 100 ? (Number.isInteger(size) ? 0 : 1) : Number.isInteger(size) && size > 1 ? 0 : 3);
  return (value < 0 ? "−" : sign && size > 0 ? "+" : "") + text;
}

// Round numbers from lo to hi, about n of them.
function ticks(lo, hi, n, whole = false) {
  const rough = (hi - lo) / Math.max(n, 1), power = 10 ** Math.floor(Math.log10(rough));
  const sizes = [10, 5, 2, 1, 0.5, 0.2].map((m) => m * power);
  let k0 = sizes.findLastIndex((size) => size >= rough * 0.999);
  while (k0 < sizes.length - 1 && Math.floor(hi / sizes[k0]) - Math.ceil(lo / sizes[k0]) < 1) k0++;  // two at least
  let step = sizes[Math.max(k0, 0)];
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let k = Math.ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9; k++) found.push(k * step);
  const digits = Math.min(8, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  return found.map((at) => [at, (at < -1e-12 ? "−" : "") + Math.abs(at).toFixed(digits)]);
}

const linear = ([a, b], [p, q]) => (v) => p + ((v - a) / (b - a)) * (q - p);

// The least and the greatest of what is known, with some air; null if nothing is.
function extent(values, air = 0) {
  let lo = Infinity, hi = -Infinity;
  for (const v of values) if (known(v)) { if (v < lo) lo = v; if (v > hi) hi = v; }
  if (lo > hi) return null;
  if (lo === hi) { const pad = Math.abs(lo) * 0.05 || 0.01; return [lo - pad, hi + pad]; }
  return [lo - air * (hi - lo), hi + air * (hi - lo)];
}

function percentile(values, share) {
  const sorted = Float64Array.from(values.filter(known)).sort();
  return sorted.length ? sorted[Math.round(share * (sorted.length - 1))] : NaN;
}

// Index of the value nearest to x in a rising list.
function nearest(list, x) {
  let lo = 0, hi = list.length - 1;
  while (hi - lo > 1) { const mid = (lo + hi) >> 1; if (list[mid] <= x) lo = mid; else hi = mid; }
  return Math.abs(list[hi] - x) < Math.abs(list[lo] - x) ? hi : lo;
}
// Index of the last value that is not above x (the first value if all are).
function upto(list, x) {
  const i = nearest(list, x);
  return list[i] > x && i > 0 ? i - 1 : i;
}

// viridis; for changes Crameri's vik on light paper and our own dusk on dark paper: even steps of lightness to either side
// of a zero that is neutral, close to the paper.
const PALETTES = {
  viridis: ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"],
  vik: ["001261", "033e7d", "1e6f9d", "71a8c4", "c9dde7", "f4efeb", "eacebd", "d39774", "be6533", "8b2706", "590008"],
  dusk: ["add7f9", "58b7f3", "1595d1", "0073a4", "085276", "2e3035", "734026", "aa5427", "d6713d", "f2986b", "fec5ab"],
};
const dark = matchMedia("screen and (prefers-color-scheme: dark)");

// share in [0, 1] -> [r, g, b]
function colours(name) {
  const stops = PALETTES[name].map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return (share) => {
    const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
    return stops[i].map((c, k) => c + (stops[i + 1][k] - c) * (at - i));
  };
}
const gradient = (name) => `linear-gradient(90deg, ${PALETTES[name].map((hex) => "#" + hex).join(", ")})`;

const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const colour = (run) => `var(--run${run % 7})`;
const dash = (run) => DASHES[(run + Math.floor(run / 7)) % DASHES.length];  // a second code of a run beside its colour

// One small box for all charts; it follows the pointer and stays on the screen.
const tip = document.getElementById("tip");
function tell(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect(), gap = 14;
  const left = event.clientX + gap + width > innerWidth ? event.clientX - gap - width : event.clientX + gap;
  const top = event.clientY + gap + height > innerHeight ? event.clientY - gap - height : event.clientY + gap;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}
const hush = () => { tip.hidden = true; };
