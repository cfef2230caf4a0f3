// Class: its baseline accuracy, its most important units, the curve of their removal, its images.
const MOST_UNITS = 10;

function categoryTab(app, panel) {
  const { state, set, source } = app, curves = new Map(), work = workView(app);
  const worst = () => app.worst(source.study.place.get(state.unit));
  const sentence = h.p({ class: "ul-sentence" }), open = button("", () => app.chooseClass(worst())), hurts = h.div(),
    curve = h.div();
  const compute = button("Compute the curve", run, { class: "ul-compute-curve" }), images = pagedTiles(app, 20, tile);
  const content = h.div(h.div({ class: "ul-split" }, hurts, h.div({ class: "ul-narrow" },
    h.h3("Its accuracy while its most important units are silenced, one after the other"), compute, work.holder, work.said,
      curve)),
  images.holder);
  let found = null;
  panel.append(sentence, open, content);

  function tile(at) {
    const { classes, classPlace } = source.study, k = found.before[at], right = k === classPlace.get(state.category);
    const small = found.margin ? `margin ${text(found.margin[at])}` : "",
      words = `predicted ${classes[k]}, ${right ? "right" : "wrong"}. ${small}`;
    return { lines: [right ? "✓ right" : `✗ ${classes[k]}`], small, kind: right ? "ul-won" : "ul-lost", words };
  }
  const key = () => source.study.key + state.category;
  async function run() {
    const mine = key();
    compute.hidden = true;
    const answer = await work.run("Silencing units …", "curve", { category: state.category });
    if (answer) curves.set(mine, answer);
    if (key() === mine) showCurve();
  }
  function showCurve() {
    const known = curves.get(key()), waits = !known && work.holder.hidden;
    compute.hidden = !waits;
    const words = "Runs the network: the units are ranked by their drop on one half of the images, silenced and measured on "
      + "the other.";
    curve.replaceChildren(...(known ? drawCurve(known) : [note(words)]));
    if (waits) app.atHand().then(missing => { if (missing) { compute.hidden = true; work.fail(missing); } });
  }
  function units() {
    const rows = state.byClass, { units } = source.study;
    if (!rows) return;
    const order = descending(rows.drop), helping = order.slice(MOST_UNITS).slice(-3).filter(i => rows.drop[i] < 0);
    const some = [...order.slice(0, MOST_UNITS), ...helping];
    const scale = share(...ends(some.flatMap(i => [rows.drop[i], rows.low[i], rows.high[i]])));
    const body = h.tbody(some.map((i, at) => {
      const unit = units[i], words = `${limited(rows.drop[i], rows.low[i], rows.high[i])}, ${probability("q", rows.q[i])}`;
      return h.tr({
        "data-unit": unit, tabindex: at ? -1 : 0, class: at === MOST_UNITS ? "gap" : "", ...pressed(() => set({ unit })),
        "aria-current": unit === state.unit ? "true" : null,
      }, h.th({ scope: "row", title: app.called(i, true) }, `unit ${unit}`), h.td(drops([dropOf(rows, i)], scale, words)),
        h.td(words));
    }));
    roving(body, "tr");
    const warning = "Filled: q ≤ 0.05. The largest of many drops are biased upward; the intervals are of each unit by itself.";
    hurts.replaceChildren(h.h3("Its most important units: accuracy drop of the class, points (95 % interval)"),
      h.table({ class: "ul-bars ul-unit-bars" }, body), note(warning, rows.tested ? ` ${rows.tested}` : ""));
  }
  function draw() {
    const name = state.category, known = found?.category === name;
    open.hidden = Boolean(name) || !worst();
    open.textContent = `Open ${worst()}, the class that unit ${state.unit} damages most`;
    content.hidden = !name || !known || !found.of;
    if (!name) return sentence.replaceChildren("No class is chosen: find one in the field Class above, or click a bar.");
    if (!known) return;
    if (!found.of) return sentence.replaceChildren("The study has no image of ", bold(name),
      ", so there is nothing to measure.");
    const all = count(found.of, "image"), percent = share => text(100 * share);
    sentence.replaceChildren("Before any ablation, ", h.b(`${found.right.toLocaleString("en")} of the ${all}`), " of ",
      bold(name),
      " are predicted right: ", h.b(`${percent(found.right / found.of)} %`),
      ` (95 % interval ${percent(found.low)} to ${percent(found.high)}).`,
      found.of < 20 ? ` Only ${all}: every number of this class is coarse.` : "");
    units();
    showCurve();
    images.fill(`Its ${all}, the least sure first`, found.images);
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
  const most = Math.max(...high, ...overall) * 1.04,
    frame = frameOf(420, 220, [0, k.at(-1)], [0, most], { left: 44, right: 10, top: 12, bottom: 34 });
  const points = values => k.map((value, i) => [value, values[i]]), now = i => `this class ${text(own[i])} %`;
  const words = `With ${count(k.at(-1), "unit")} silenced: this class ${text(own[0])} → ${text(own.at(-1))} %, `
    + `all classes ${text(overall[0])} → ${text(overall.at(-1))} %`;
  const told = (value, i) =>
    `${count(value, "unit")}: ${now(i)} (95 %: ${text(low[i])} to ${text(high[i])}), all classes ${text(overall[i])} %`;
  const svg = h.svg({ class: "ul-curve", viewBox: "0 0 420 220", role: "img", "aria-label": words }, gridOf(frame),
    h.path({ class: "band own", d: pathOf([...points(high), ...points(low).reverse()], frame) + "Z" }),
    h.path({ class: "all", d: pathOf(points(overall), frame) }), h.path({ class: "own", d: pathOf(points(own), frame) }),
    k.map((value, i) =>
      h.circle({ class: "own", cx: frame.px(value), cy: frame.py(own[i]), r: 3, "data-k": value }, h.title(told(value, i)))),
    h.text({ class: "title", x: 410, y: 216, "text-anchor": "end" }, "units silenced →"));
  return [svg, note(h.span({ class: "key own" }), " this class ", h.span({ class: "key all" }),
    ` all classes, accuracy in %. ${words}. Cross-fitted: ranked by the drop of the class on one half of the images, `,
    "measured on the other, both ways. Band: 95 % interval.")];
}
