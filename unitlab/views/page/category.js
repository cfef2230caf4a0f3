// Class: its baseline accuracy, its most important units, the curve of their removal, its images.
const MOST_UNITS = 10;

function categoryTab(app, panel) {
  const { state, source } = app, curves = new Map(), work = workView(app), fresh = newest();
  const worst = () => app.worst(source.study.place.get(state.unit)), key = () => source.study.key + state.category;
  const sentence = h.p({ class: "ul-sentence" }), open = button("", () => app.chooseClass(worst()));
  const hurts = h.div(), curve = h.div(), images = pagedTiles(app, 20, about);
  const compute = button("Compute the curve", run, { class: "ul-compute-curve" });
  const content = h.div(h.div({ class: "ul-split" }, hurts, h.div({ class: "ul-narrow" },
    h.h3("Its accuracy while its most important units are silenced, one after the other"),
    compute, work.holder, work.said, curve)), images.holder);
  let found = null;
  panel.append(sentence, open, content);

  function about(at) {
    const { classes, classPlace } = source.study, k = found.before[at], right = k === classPlace.get(found.category);
    const small = found.margin ? `margin ${text(found.margin[at])}` : "";
    const words = `predicted ${classes[k]}, ${right ? "right" : "wrong"}. ${small}`;
    return { lines: [right ? "✓ right" : `✗ ${classes[k]}`], small, kind: right ? "ul-won" : "ul-lost", words };
  }
  async function run() {
    const mine = key();
    compute.hidden = true;
    const answer = await work.run("Silencing units …", "curve", { category: state.category });
    if (answer) curves.set(mine, answer);
    if (key() === mine) showCurve();
  }
  async function showCurve() {
    const known = curves.get(key()), waits = !known && work.holder.hidden;
    compute.hidden = !waits;
    const words = "Runs the network: the units are ranked by their drop on one half of the images, silenced and measured on "
      + "the other.";
    curve.replaceChildren(...(known ? drawCurve(known) : [note(words)]));
    const missing = waits && await app.atHand();
    if (missing) { compute.hidden = true; work.fail(missing); }
  }
  function units(rows) {
    const { units } = source.study, order = descending(rows.drop), most = order.splice(0, MOST_UNITS);
    const some = [...most, ...order.slice(-3).filter(i => rows.drop[i] < 0)];
    const bars = some.map((i, at) => ({
      ...app.opensUnit(units[i], at === 0), class: at === MOST_UNITS ? "gap" : "", title: app.called(i, true),
      name: `unit ${units[i]}`, parts: [dropOf(rows, i)], words: saidOf(rows, i), cells: [saidOf(rows, i)],
    }));
    const warning = "Filled: q ≤ 0.05. The largest of many drops are biased upward; the intervals are of each unit by "
      + "itself.";
    hurts.replaceChildren(h.h3("Its most important units: accuracy drop of the class, points (95 % interval)"),
      barTable("ul-unit-bars", bars), note(warning, rows.tested ? ` ${rows.tested}` : ""));
  }
  return async changed => {
    const category = state.category, rows = state.byClass;
    if (changed.has("category")) { work.stop(); work.clear(); }
    open.hidden = Boolean(category) || !worst();
    open.textContent = `Open ${worst()}, the class that unit ${state.unit} damages most`;
    if (!category) {
      content.hidden = true;
      return sentence.replaceChildren("No class is chosen: find one in the field Class above, or click a bar.");
    }
    found = { category, ...await fresh(source.row("class_images", { category })) };
    content.hidden = !found.of;
    const all = count(found.of, "image"), percent = share => text(100 * share), name = bold(category);
    if (!found.of) return sentence.replaceChildren("The study has no image of ", name, ", so there is nothing to measure.");
    sentence.replaceChildren("Before any ablation, ", h.b(`${whole(found.right)} of the ${all}`), " of ", name,
      " are predicted right: ", h.b(`${percent(found.right / found.of)} %`),
      ` (95 % interval ${percent(found.low)} to ${percent(found.high)}).`,
      found.of < 20 ? ` Only ${all}: every number of this class is coarse.` : "");
    if (rows) units(rows);
    showCurve();
    images.fill(`Its ${all}, the least sure first`, found.images);
  };
}
categoryTab.keys = ["category", "held", "byClass", "unit"];

function drawCurve({ k, own, low, high, overall }) {
  const most = Math.max(...high, ...overall) * 1.04, margin = { left: 44, right: 10, top: 12, bottom: 34 };
  const frame = frameOf(420, 220, [0, k.at(-1)], [0, most], margin), points = values => k.map((value, i) => [value, values[i]]);
  const words = `With ${count(k.at(-1), "unit")} silenced: this class ${text(own[0])} → ${text(own.at(-1))} %, `
    + `all classes ${text(overall[0])} → ${text(overall.at(-1))} %`;
  const told = (value, i) => `${count(value, "unit")}: this class ${text(own[i])} % (95 %: ${text(low[i])} to `
    + `${text(high[i])}), all classes ${text(overall[i])} %`;
  const svg = plot("ul-curve", frame, words,
    h.path({ class: "band", d: pathOf([...points(high), ...points(low).reverse()], frame) + "Z" }),
    h.path({ class: "all", d: pathOf(points(overall), frame) }), h.path({ class: "own", d: pathOf(points(own), frame) }),
    k.map((value, i) =>
      h.circle({ class: "own", cx: frame.px(value), cy: frame.py(own[i]), r: 3, "data-k": value }, h.title(told(value, i)))),
    h.text({ class: "title", x: 410, y: 216, "text-anchor": "end" }, "units silenced →"));
  return [svg, note(h.span({ class: "key own" }), " this class ", h.span({ class: "key all" }),
    ` all classes, accuracy in %. ${words}. Cross-fitted: ranked by the drop of the class on one half of the images, `,
    "measured on the other, both ways. Band: 95 % interval.")];
}
