// Two kinds of picture: curves (against layer or step) and maps (layer x step). Both are drawn anew when their width changes.
const MARKS = { warn: "▲", error: "■" };
const LEFT = 46, RIGHT = 12, TOP = 16, BOTTOM = 32;

// The frame that every picture has: a caption with room for what is true now, an svg, axes, and the pointer's place.
function frame(host, title, height) {
  const now = html("span", { class: "now" });
  const caption = html("figcaption", null, html("span", null, title), now);
  const picture = svg("svg", { role: "img", "aria-label": `${title}: its numbers are in the tables at the end` });
  const empty = html("p", { class: "empty", hidden: "" });  // why there is nothing to draw
  const figure = html("figure", null, caption, picture, empty);
  host.append(figure);
  const width = () => Math.max(220, figure.clientWidth - 24);
  const clear = () => {
    picture.replaceChildren();
    picture.setAttribute("viewBox", `0 0 ${width()} ${height}`);
    return { left: LEFT, right: width() - RIGHT, top: TOP, bottom: height - BOTTOM };
  };
  return { now, picture, empty, clear };
}

function axes(picture, box, x, y, xName, xTicks, yTicks) {
  for (const [at, word] of yTicks) {
    picture.append(svg("line", { class: at === 0 ? "zero" : "axis", x1: box.left, x2: box.right, y1: y(at), y2: y(at) }));
    picture.append(svg("text", { x: box.left - 6, y: y(at) + 4, "text-anchor": "end" }, word));
  }
  for (const [at, word] of xTicks) {
    picture.append(svg("line", { class: "axis", x1: x(at), x2: x(at), y1: box.bottom, y2: box.bottom + 4 }));
    picture.append(svg("text", { x: x(at), y: box.bottom + 15, "text-anchor": "middle" }, word));
  }
  picture.append(svg("text", { x: box.right, y: box.bottom + 28, "text-anchor": "end" }, xName));
}

// "M..L.." through what is known; a value that is missing leaves a gap, a value alone becomes a dot.
function path(xs, ys, x, y) {
  let text = "";
  for (let i = 0; i < xs.length; i++) {
    if (!known(ys[i])) continue;
    const joined = i > 0 && known(ys[i - 1]), alone = !joined && !(i + 1 < xs.length && known(ys[i + 1]));
    text += `${joined ? "L" : "M"}${x(xs[i]).toFixed(1)} ${y(ys[i]).toFixed(1)}` + (alone ? "h.01" : "");
  }
  return text;
}

// The area between y - se and y + se, a piece per stretch without gaps.
function band(xs, ys, errors, x, y) {
  let text = "", piece = [];
  const close = () => {
    const edge = (sign) => piece.map((i) => `${x(xs[i]).toFixed(1)} ${y(ys[i] + sign * errors[i]).toFixed(1)}`);
    if (piece.length > 1) text += `M${edge(1).join("L")}L${edge(-1).reverse().join("L")}Z`;
    piece = [];
  };
  xs.forEach((_, i) => (known(ys[i]) && known(errors[i]) ? piece.push(i) : close()));
  close();
  return text;
}

// Alerts at their steps: shape, colour and a dashed line; one mark where several fall on one step.
function alertMarks(picture, box, x, alerts) {
  const worst = new Map();
  for (const alert of alerts) if (worst.get(alert.step) !== "error") worst.set(alert.step, alert.level);
  for (const [step, level] of worst) {
    const at = x(step);
    picture.append(svg("g", { class: `mark ${MARKS[level] ? level : "warn"}` },
      svg("line", { x1: at, x2: at, y1: box.top, y2: box.bottom }),
      svg("text", { x: at, y: box.top - 4, "text-anchor": "middle" }, MARKS[level] || "▲")));
  }
}

// Makes an svg answer the pointer: `at` gives the words for a place, `go` takes a click.
function listen(picture, at, go) {
  const place = (event) => {
    const rect = picture.getBoundingClientRect(), size = picture.viewBox.baseVal;
    return [((event.clientX - rect.left) / rect.width) * size.width, ((event.clientY - rect.top) / rect.height) * size.height];
  };
  const move = (event) => { const words = at(...place(event)); if (words) tell(event, words); else hush(); };
  picture.addEventListener("pointermove", move);
  picture.addEventListener("pointerdown", move);
  picture.addEventListener("pointerleave", () => { at(NaN, NaN); hush(); });
  if (go) picture.addEventListener("click", (event) => go(...place(event)));
}

// Curves. `spec()` gives what to draw now: series [{run, name, x, y, se, start}], domain, across (the x axis), alerts, late, cursor, xName,
// and `missing`, the words for a chart without values; so the same chart is drawn again for another step, another choice of runs or another width.
function curves(host, title, height, spec, go) {
  const parts = frame(host, title, height);
  let drawn = null;
  const draw = () => {
    const now = spec(), box = parts.clear(), { picture } = parts;
    const xs = now.across || extent(now.series.flatMap((s) => [s.x[0], s.x[s.x.length - 1]])) || [0, 1];
    const ys = now.domain || extent(now.series.flatMap((s) => s.y.flatMap((v, i) => (s.se && known(v) && known(s.se[i]) ? [v - s.se[i], v + s.se[i]] : [v]))), 0.06);
    drawn = null;
    parts.empty.textContent = ys ? "" : now.missing || "no values in this trace";
    parts.empty.hidden = Boolean(ys);
    picture.style.display = ys ? "" : "none";
    parts.now.replaceChildren();
    if (!ys) return;
    const x = linear(xs, [box.left + 4, box.right - 4]), y = linear(ys, [box.bottom, box.top]);
    if (now.late) {
      const from = Math.max(x(now.late[0] - 0.5), box.left), to = Math.min(x(now.late[1] + 0.5), box.right);
      picture.append(svg("rect", { class: "late", x: from, y: box.top, width: to - from, height: box.bottom - box.top }));
    }
    axes(picture, box, x, y, now.xName, ticks(...xs, (box.right - box.left) / 62, true), ticks(...ys, (box.bottom - box.top) / 30));
    for (const s of now.series) {
      const paint = `stroke: ${colour(s.run)}; stroke-dasharray: ${dash(s.run)}`;
      if (s.se) picture.append(svg("path", { class: "band", d: band(s.x, s.y, s.se, x, y), style: `fill: ${colour(s.run)}` }));
      picture.append(svg("path", { class: s.start ? "curve start" : "curve", "stroke-linecap": "round", d: path(s.x, s.y, x, y), style: paint }));
    }
    alertMarks(picture, box, x, now.alerts || []);
    const cursor = svg("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
    const hover = svg("line", { class: "hover", y1: box.top, y2: box.bottom, visibility: "hidden" });
    picture.append(cursor, hover);
    drawn = { now, x, xs, box, cursor, hover };
    point(now.cursor);
  };
  const line = (node, at) => {
    node.setAttribute("visibility", known(at) ? "visible" : "hidden");
    if (known(at)) for (const name of ["x1", "x2"]) node.setAttribute(name, at);
  };
  // Moves the line of the slider's step, and says beside the title what holds there.
  const point = (step) => {
    if (!drawn || !known(step)) return;
    line(drawn.cursor, drawn.x(Math.min(Math.max(step, drawn.xs[0]), drawn.xs[1])));
    parts.now.replaceChildren(...drawn.now.series.map((s) => {
      const words = html("span", { title: s.name }, value(s, upto(s.x, step), drawn.now.sign));
      words.style.setProperty("--colour", drawn.now.alone ? "transparent" : colour(s.run));
      return words;
    }));
  };
  const value = (s, i, sign) => show(s.y[i], sign) + (s.se && known(s.se[i]) ? ` ± ${show(s.se[i])}` : "");
  listen(parts.picture, (px) => {
    if (!drawn || !known(px) || px < drawn.box.left - 8) { if (drawn) line(drawn.hover, NaN); return ""; }
    const { now, x, xs, box } = drawn, wanted = linear([box.left + 4, box.right - 4], xs)(px);
    const all = [...new Set(now.series.flatMap((s) => s.x))].sort((a, b) => a - b), at = all[nearest(all, wanted)];
    line(drawn.hover, x(at));
    const rows = now.series.flatMap((s) => { const i = s.x.indexOf(at); return i < 0 ? [] : [`${s.name}: ${value(s, i, now.sign)}`]; });
    const here = (now.alerts || []).filter((a) => a.step === at).map((a) => `${MARKS[a.level] || "▲"} ${a.rule} (${a.level})${now.alone ? "" : ", " + a.run}`);
    return [`${now.xName} ${at}`, ...rows, ...here].join("\n");
  }, go && ((px) => drawn && go(linear([drawn.box.left + 4, drawn.box.right - 4], drawn.xs)(px))));
  return { draw, point };
}

// A map of one run: layers upwards, steps to the right. `spec()`: steps, rows (a list of layers per step), first (layer of
// the first row), late, alerts, cursor, palette, diverging.
function map(host, title, height, spec, go) {
  const parts = frame(host, title, height);
  const scale = html("span", { class: "scale" });
  parts.now.replaceWith(scale);
  let drawn = null;
  const draw = () => {
    const now = spec(), box = parts.clear(), { picture } = parts, depth = now.rows[0].length;
    const all = now.rows.flat(), name = now.diverging ? (dark.matches ? "dusk" : "vik") : "viridis";
    let ends = [percentile(all, 0.02), percentile(all, 0.98)];
    if (now.diverging) { const most = percentile(all.filter(known).map(Math.abs), 0.98) || 1e-3; ends = [-most, most]; }
    if (!(ends[0] < ends[1])) ends = extent(ends) || [0, 1];
    const xs = reach(now.steps);
    const layers = [now.first - 0.5, now.first + depth - 0.5], x = linear(xs, [box.left + 8, box.right]), y = linear(layers, [box.bottom, box.top]);
    const hatch = svg("pattern", { id: `hatch-${title.length}-${now.first}`, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 6 }));
    const area = { x: box.left + 8, y: box.top, width: box.right - box.left - 8, height: box.bottom - box.top };
    picture.append(svg("defs", null, hatch), svg("rect", { ...area, fill: `url(#${hatch.id})` }));
    picture.append(svg("image", { ...area, preserveAspectRatio: "none", href: pixels(now, area.width, xs, ends, colours(name)) }));
    axes(picture, box, x, y, "step", ticks(...xs, area.width / 62, true), ticks(now.first, layers[1] - 0.5, 5, true).filter(([at]) => at >= now.first).map(([at, word]) => [at, word]));
    picture.querySelectorAll(".axis, .zero").forEach((node) => { if (node.getAttribute("y1") === node.getAttribute("y2")) node.remove(); });
    picture.append(svg("line", { class: "bracket", x1: box.left + 3, x2: box.left + 3, y1: y(Math.max(now.late[0], now.first) - 0.5), y2: y(now.late[1] + 0.5) }));
    alertMarks(picture, { ...box, bottom: box.top }, x, now.alerts);
    const cursor = svg("line", { class: "cursor", y1: box.top, y2: box.bottom });
    picture.append(cursor);
    const bar = html("i");
    bar.style.background = gradient(name);
    scale.replaceChildren(show(ends[0], now.diverging), bar, show(ends[1], now.diverging));
    drawn = { now, x, y, xs, layers, area, cursor };
    point(now.cursor);
  };
  const point = (step) => {
    if (!drawn) return;
    const at = drawn.x(Math.min(Math.max(step, drawn.xs[0]), drawn.xs[1]));
    for (const name of ["x1", "x2"]) drawn.cursor.setAttribute(name, at);
  };
  const stepAt = (px) => linear([drawn.area.x, drawn.area.x + drawn.area.width], drawn.xs)(px);
  listen(parts.picture, (px, py) => {
    if (!drawn || !(px >= drawn.area.x && px <= drawn.area.x + drawn.area.width)) return "";
    const { now, area, layers } = drawn, i = nearest(now.steps, stepAt(px));
    const layer = Math.round(linear([area.y + area.height, area.y], layers)(py));
    if (layer < layers[0] || layer > layers[1]) return "";
    return `step ${now.steps[i]}, layer ${layer}\n${title}: ${show(now.rows[i][layer - now.first], now.diverging)}`;
  }, (px) => drawn && go(stepAt(px)));
  return { draw, point };
}

// From the first step to the last; a single reading gets a cell of one step.
function reach(steps) {
  const first = steps[0], last = steps[steps.length - 1];
  return first < last ? [first, last] : [first - 0.5, last + 0.5];
}

// The map as a picture, a pixel per layer and column: a column shows the reading nearest to its step.
function pixels(now, width, xs, ends, paint) {
  const wide = Math.max(1, Math.min(1400, Math.round(width * 1.5))), depth = now.rows[0].length;
  const canvas = html("canvas", { width: wide, height: depth }), context = canvas.getContext("2d"), image = context.createImageData(wide, depth);
  for (let column = 0; column < wide; column++) {
    const row = now.rows[nearest(now.steps, xs[0] + ((column + 0.5) / wide) * (xs[1] - xs[0]))];
    for (let layer = 0; layer < depth; layer++) {
      if (!known(row[layer])) continue;
      const [r, g, b] = paint((row[layer] - ends[0]) / (ends[1] - ends[0]));
      image.data.set([r, g, b, 255], ((depth - 1 - layer) * wide + column) * 4);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}
