// Class: its baseline accuracy, its most important units, the curve of their removal, its images.
const MOST_UNITS = 10;

function categoryTab(app, panel) {
  const { state, set, source } = app, curves = new Map();
  let found = null;
  const sentence = element("p", { class: "ul-sentence" }), open = button("", () => app.chooseClass(app.worst(source.study.place.get(state.unit))));
  const hurts = element("div"), curve = element("div"), work = workView(app), compute = button("Compute the curve", run, { class: "ul-compute-curve" });
  const images = pagedTiles(app, 20, tile);
  const content = element("div", {}, element("div", { class: "ul-split" }, hurts, element("div", { class: "ul-narrow" }, element("h3", {}, "Its accuracy while its most important units are silenced, one after the other"), compute, work.holder, work.said, curve)), images.holder);
  panel.append(sentence, open, content);

  function tile(at) {
    const { classes, classPlace } = source.study, k = found.before[at], right = k === classPlace.get(state.category), small = found.margin ? `margin ${text(found.margin[at])}` : "";
    return { lines: [right ? "✓ right" : `✗ ${classes[k]}`], small, kind: right ? "ul-won" : "ul-lost", words: `predicted ${classes[k]}, ${right ? "right" : "wrong"}. ${small}` };
  }
  async function run() {
    const { category } = state, key = source.study.key + category;
    compute.hidden = true;
    const answer = await work.run("Silencing units …", "curve", { category });
    if (answer) curves.set(key, answer);
    if (state.category === category) curveOf(category);
  }
  function curveOf(category) {
    const known = curves.get(source.study.key + category);
    compute.hidden = Boolean(known) || !work.holder.hidden;
    curve.replaceChildren(...(known ? drawCurve(known) : [element("p", { class: "ul-note" }, "Runs the network: the units are ranked by their drop on one half of the images, silenced and measured on the other.")]));
    if (!known && work.holder.hidden) app.atHand().then(missing => { if (missing) { compute.hidden = true; work.fail(missing); } });
  }
  function units() {
    const rows = state.byClass, { study } = source;
    if (!rows) return;
    const order = [...study.units.keys()].filter(i => finite(rows.drop[i])).sort((a, b) => rows.drop[b] - rows.drop[a] || a - b), helping = order.slice(-3).filter(i => rows.drop[i] < 0);
    const some = [...order.slice(0, MOST_UNITS), ...helping.filter(i => order.indexOf(i) >= MOST_UNITS)];
    const scale = share(...ends(some.flatMap(i => [rows.drop[i], rows.low[i], rows.high[i]])));
    const body = element("tbody", {}, some.map((i, at) => {
      const sure = rows.q[i] <= .05, limits = finite(rows.low[i]) ? ` (${text(rows.low[i])} to ${text(rows.high[i])})` : "";
      return element("tr", { "data-unit": study.units[i], tabindex: at ? -1 : 0, class: at === MOST_UNITS ? "gap" : "", "aria-current": study.units[i] === state.unit ? "true" : null, onclick: () => set({ unit: study.units[i] }), onkeydown: event => event.key === "Enter" && set({ unit: study.units[i] }) },
        element("th", { scope: "row" }, `unit ${study.units[i]}`), element("td", {}, dropBar(rows.drop[i], rows.low[i], rows.high[i], scale, sure, [0])), element("td", {}, `${text(rows.drop[i])}${limits}, ${probability("q", rows.q[i])}`));
    }));
    roving(body, "tr");
    hurts.replaceChildren(element("h3", {}, "Its most important units: accuracy drop of the class, points (95 % interval)"), element("table", { class: "ul-bars ul-unit-bars" }, body),
      element("p", { class: "ul-note" }, "Filled: q ≤ 0.05. The largest of many drops are biased upward; the intervals are of each unit by itself.", rows.tested ? ` ${rows.tested}` : ""));
  }
  function draw() {
    const name = state.category, worst = app.worst(source.study.place.get(state.unit));
    open.hidden = Boolean(name) || !worst;
    open.textContent = `Open ${worst}, the class that unit ${state.unit} damages most`;
    content.hidden = !name || !found || found.category !== name || !found.of;
    if (!name) return sentence.replaceChildren("No class is chosen: find one in the field Class above, or click a bar.");
    if (!found || found.category !== name) return;
    if (!found.of) return sentence.replaceChildren("The study has no image of ", bold(name), ", so there is nothing to measure.");
    const few = found.of < 20 ? ` Only ${count(found.of, "image")}: every number of this class is coarse.` : "";
    sentence.replaceChildren("Before any ablation, ", element("b", {}, `${found.right.toLocaleString("en")} of the ${count(found.of, "image")}`), " of ", bold(name), ` are predicted right: `, element("b", {}, `${text(100 * found.right / found.of)} %`), ` (95 % interval ${text(100 * found.low)} to ${text(100 * found.high)}).${few}`);
    units();
    curveOf(name);
    images.fill(`Its ${count(found.of, "image")}, the least sure first`, found.images);
  }
  app.onSlot("classImages", row => { found = row; draw(); });
  return changed => {
    if (changed.has("category")) { work.stop(); work.clear(); }
    if (state.category) app.load("classImages", "class_images", { category: state.category });
    draw();
  };
}
categoryTab.keys = ["category", "held", "byClass", "unit"];

function drawCurve({ k, own, low, high, overall }) {
  const width = 420, height = 220, left = 44, right = 10, top = 12, bottom = 34, most = Math.max(...high, ...overall) * 1.04;
  const x = value => left + value / k.at(-1) * (width - left - right), y = value => height - bottom - value / most * (height - top - bottom);
  const path = (values, at = k) => at.map((value, i) => `${i ? "L" : "M"}${x(value).toFixed(1)},${y(values[i]).toFixed(1)}`).join("");
  const band = path([...high, ...[...low].reverse()], [...k, ...[...k].reverse()]) + "Z";
  const words = `With ${count(k.at(-1), "unit")} silenced: this class ${text(own[0])} → ${text(own.at(-1))} %, all classes ${text(overall[0])} → ${text(overall.at(-1))} %`;
  const svg = element("svg", { class: "ul-curve", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
    ticks(0, most, 4).map(t => [element("line", { class: "grid", x1: left, x2: width - right, y1: y(t), y2: y(t) }), element("text", { x: left - 5, y: y(t) + 4, "text-anchor": "end" }, brief(t))]).flat(),
    ticks(0, k.at(-1), 5).map(t => element("text", { x: x(t), y: height - bottom + 15, "text-anchor": "middle" }, brief(t))), element("path", { class: "band own", d: band }), element("path", { class: "all", d: path(overall) }), element("path", { class: "own", d: path(own) }),
    k.map((value, i) => element("circle", { class: "own", cx: x(value), cy: y(own[i]), r: 3, "data-k": value }, element("title", {}, `${count(value, "unit")}: this class ${text(own[i])} % (95 %: ${text(low[i])} to ${text(high[i])}), all classes ${text(overall[i])} %`))),
    element("text", { class: "title", x: width - right, y: height - 4, "text-anchor": "end" }, "units silenced →"));
  return [svg, element("p", { class: "ul-note" }, element("span", { class: "key own" }), " this class ", element("span", { class: "key all" }), ` all classes, accuracy in %. ${words}. Cross-fitted: ranked by the drop of the class on one half of the images, measured on the other, both ways. Band: 95 % interval.`)];
}
