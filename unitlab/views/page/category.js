// Class: its baseline accuracy, its most important units, the curve of their removal, its images.
const MOST_UNITS = 10;

function categoryTab(app, again) {
  const { state, source } = app, key = () => source.study.key + state.category;
  const ask = () => ["Silencing units …", "curve", { category: state.category }];
  const work = keptWork(app, again, key, ask, "Compute the curve", { class: "ul-compute-curve" });

  function curve() {
    const known = work.found();
    work.offer();
    return [h.h3("Its accuracy while its most important units are silenced, one after the other"), work.start, work.holder,
      work.said, known ? drawCurve(known) : note("Runs the network: the units are ranked by their drop on one half of the ",
        "images, silenced and measured on the other.")];
  }
  function importantUnits(rows) {
    const { units } = source.study, order = descending(rows.drop), most = order.splice(0, MOST_UNITS);
    const bars = [...most, ...order.slice(-3).filter(i => rows.drop[i] < 0)].map((i, at) => ({
      ...app.opensUnit(units[i], at === 0), class: at === MOST_UNITS ? "gap" : "", title: app.called(i, true),
      name: `unit ${units[i]}`, parts: [dropOf(rows, i)], words: saidOf(rows, i), cells: [saidOf(rows, i)],
    }));
    return h.div(h.h3("Its most important units: accuracy drop of the class, points (95 % interval)"),
      barTable("ul-unit-bars", bars),
      note("Filled: q ≤ 0.05. The largest of many drops are biased upward; the intervals are of each unit by itself. ",
        rows.tested));
  }
  return async changed => {
    const { unit, category, byClass } = state, { classes, place } = source.study, worst = app.worst(place.get(unit));
    if (changed.has("category")) { work.stop(); work.clear(); }
    if (!category) return [sentence("No class is chosen: find one in the field Class above, or click a bar."),
      worst && button(`Open ${worst}, the class that unit ${unit} damages most`, () => app.chooseClass(worst))];
    const { of, right, low, high, before, margin, images } = await source.row("class_images", { category });
    if (!of) return sentence("The study has no image of ", bold(category), ", so there is nothing to measure.");
    const all = count(of, "image"), percent = share => text(100 * share);
    const tiles = await pagedTiles(app, `Its ${all}, the least sure first`, images, 20, at => {
      const name = classes[before[at]], right = name === category, small = margin ? `margin ${text(margin[at])}` : "";
      const words = `predicted ${name}, ${right ? "right" : "wrong"}. ${small}`;
      return { lines: [right ? "✓ right" : `✗ ${name}`], small, kind: right ? "ul-won" : "ul-lost", words };
    });
    return [sentence("Before any ablation, ", h.b(`${whole(right)} of the ${all}`), " of ", bold(category),
      " are predicted right: ", h.b(`${percent(right / of)} %`), ` (95 % interval ${percent(low)} to ${percent(high)}).`,
      of < 20 && ` Only ${all}: every number of this class is coarse.`),
    h.div({ class: "ul-split" }, byClass ? importantUnits(byClass) : h.div(), h.div({ class: "ul-narrow" }, curve())), tiles];
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
