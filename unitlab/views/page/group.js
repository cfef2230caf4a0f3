// Group: units collected by lasso or one by one, and what silencing them together costs.
const MOST_CLASSES = 12;

// numbers in "3,5,10-20", in that order
function unitsIn(words) {
  const out = new Set();
  for (const part of words.split(/[\s,]+/).filter(Boolean)) {
    const found = /^(\d+)(?:[-–](\d+))?$/.exec(part);
    if (!found) throw new Error(`“${words}” is not a list of units; write 3, 5, 10-20`);
    for (let unit = Number(found[1]); unit <= Number(found[2] ?? found[1]); unit++) out.add(unit);
  }
  return [...out];
}

function groupTab(app, panel) {
  const { state, set, source } = app, known = new Map(), before = [];
  let last = state.group, undoing = false, turn = null;
  const field = element("input", { class: "ul-group-units", type: "text", placeholder: "lasso points above, or type 3, 5, 10-20", size: 34, onchange: typed_ });
  const add = button("", () => set({ group: state.group.includes(state.unit) ? state.group.filter(unit => unit !== state.unit) : [...state.group, state.unit] }));
  const undo = button("Undo", () => { undoing = true; set({ group: before.pop() }); undoing = false; draw(); }), clear = button("Clear", () => set({ group: [] }));
  const measure = button("Silence them together", run, { class: "ul-measure-group", title: "run the network with all units of the group silenced" });
  const work = workView(app), sentence = element("p", { class: "ul-sentence" }), table = element("div", { class: "ul-group-classes" }), code = element("div");
  panel.append(element("div", { class: "ul-controls" }, element("label", {}, "Units ", field), add, undo, clear, measure, work.holder), sentence, work.said, table, code);

  const key = () => source.study.key + [...state.group].sort((a, b) => a - b).join();
  function typed_() {
    try {
      const units = unitsIn(field.value), none = units.find(unit => !source.study.place.has(unit));
      if (none !== undefined) throw new Error(`the study has no unit ${none}`);
      work.clear();
      set({ group: units });
    } catch (error) { work.fail(error); field.value = state.group.join(", "); }
  }
  async function run() {
    const mine = key(), units = [...state.group];
    measure.hidden = true;
    const answer = await work.run(`Silencing ${count(units.length, "unit")} together …`, "together", { units });
    if (answer) known.set(mine, answer);
    if (key() === mine) answer ? draw() : measure.hidden = false;
  }
  async function singles(group) {
    const mine = turn = {}, rows = await Promise.all(group.map(unit => source.row("unit", { unit })));
    return mine === turn ? rows : null;
  }
  async function draw() {
    const group = state.group, { study } = source;
    field.value = group.join(", ");
    add.textContent = `${group.includes(state.unit) ? "Remove" : "Add"} unit ${state.unit}`;
    undo.disabled = !before.length;
    clear.disabled = !group.length;
    if (work.holder.hidden) measure.hidden = true;
    if (!group.length) { sentence.textContent = "The group is empty: lasso points above, add the open unit, or type numbers."; table.replaceChildren(); code.replaceChildren(); return; }
    code.replaceChildren(codeBlock(`units = [${group.join(", ")}]\nunitlab.ablate_groups(model, images, ${JSON.stringify(study.layer)}, [units])`));
    const rows = await singles(group);
    if (!rows) return;
    const summed = study.classes.map((_, k) => rows.reduce((sum, row) => sum + row.drop[k], 0)), overall = group.reduce((sum, unit) => sum + study.measure.overall_drop.values[study.place.get(unit)], 0);
    const joint = known.get(key()), alone = [`One at a time, ${group.length === 1 ? `unit ${group[0]} costs` : `the ${group.length} units cost`} `, element("b", {}, text(overall)), ` points of overall accuracy${group.length === 1 ? "" : " in sum"}`];
    sentence.replaceChildren(...alone, ...(joint ? ["; silenced together ", element("b", {}, text(joint.overall)), ` (${count(joint.lost, "image")} lost, ${joint.won.toLocaleString("en")} won).`] : ["."]));
    classes(summed, joint);
    if (joint || !work.holder.hidden) return;
    if (group.length === 1) return study.complete && run();
    const missing = await app.atHand();
    if (missing) work.fail({ message: `What they cost together, the study does not hold. ${missing.message}`, command: missing.command });
    else measure.hidden = Boolean(known.get(key()));
  }
  function classes(summed, joint) {
    const { study } = source, by = joint ? joint.drop : summed, k = study.classPlace.get(state.category);
    const order = [...study.classes.keys()].filter(at => finite(by[at])).sort((a, b) => by[b] - by[a]).slice(0, MOST_CLASSES);
    if (k !== undefined && finite(by[k]) && !order.includes(k)) order.push(k);
    const scale = share(...ends(order.flatMap(at => [summed[at], ...(joint ? [joint.drop[at], joint.low[at], joint.high[at]] : [])])));
    const bar = (value, y, kind) => element("rect", { class: kind, x: scale.at(Math.min(0, value)), width: scale.width(value), y, height: 8 });
    const rows = order.map(at => {
      const svg = element("svg", { height: 26, "aria-hidden": true }, element("line", { class: "zero", x1: scale.at(0), x2: scale.at(0), y1: 0, y2: 26 }), bar(summed[at], joint ? 3 : 9, "sum"));
      if (joint) svg.append(bar(joint.drop[at], 14, (joint.drop[at] >= 0 ? "damage" : "help") + (joint.q[at] <= .05 ? " sure" : "")), element("line", { class: "limits", x1: scale.at(joint.low[at]), x2: scale.at(joint.high[at]), y1: 18, y2: 18 }));
      return element("tr", { "data-category": study.classes[at] }, element("th", { scope: "row" }, element("bdi", {}, study.classes[at]), element("small", {}, ` (${study.n[at]})`)), element("td", {}, svg), element("td", {}, text(summed[at])),
        joint && element("td", {}, `${text(joint.drop[at])} (${text(joint.low[at])} to ${text(joint.high[at])}), ${probability("q", joint.q[at])}`));
    });
    table.replaceChildren(element("table", { class: "ul-bars ul-group-table" }, element("thead", {}, element("tr", {}, ["most damaged classes (images)", "", "single drops in sum", joint && "together, points (95 %)"].filter(head => head !== undefined).map(head => element("th", { scope: "col" }, head)))), element("tbody", {}, rows)),
      element("p", { class: "ul-note" }, joint ? "Upper bar: the single drops in sum; lower bar: all of them together, filled where q ≤ 0.05." : "Bars: the single drops in sum. What the units cost together is not known yet."));
  }
  app.on(["group"], () => { if (!undoing) before.push(last); last = state.group; work.stop(); work.clear(); });
  app.on(["held"], () => { before.length = 0; last = state.group; });
  return draw;
}
groupTab.keys = ["group", "measured", "category", "unit", "held"];
