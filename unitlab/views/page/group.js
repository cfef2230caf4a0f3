// Group: units collected by lasso or one by one, and what silencing them together costs.
const MOST_CLASSES = 12;

// numbers in "3,5,10-20", in that order
function unitsIn(words, { place }) {
  const out = new Set();
  for (const part of words.split(/[\s,]+/).filter(Boolean)) {
    const [, first, last = first] = /^(\d+)(?:[-–](\d+))?$/.exec(part) ?? [];
    if (!first) throw new Error(`“${words}” is not a list of units; write 3, 5, 10-20`);
    for (let unit = Number(first); unit <= Number(last); unit++) {
      if (!place.has(unit)) throw new Error(`the study has no unit ${unit}`);
      out.add(unit);
    }
  }
  return [...out];
}

function groupTab(app, _, panel) {
  const { state, set, source } = app, known = new Map(), before = [], work = workView(app), fresh = newest();
  let last = state.group, undoing = false;
  const placeholder = "lasso points above, or type 3, 5, 10-20";
  const field = h.input({ class: "ul-group-units", placeholder, size: 38, onchange: read }), result = h.div();
  const add = button("", () => set({ group: toggled(state.group, state.unit) }));
  const undo = button("Undo", () => { undoing = true; set({ group: before.pop() }); undoing = false; draw(); });
  const clear = button("Clear", () => set({ group: [] }));
  const measure = button("Silence them together", run, { title: "run the network with all units of the group silenced" });
  panel.append(controls(h.label("Units ", field), add, undo, clear, measure, work.holder), result);

  const key = () => source.study.key + [...state.group].sort((a, b) => a - b).join();
  function read() {
    work.clear();
    try { set({ group: unitsIn(field.value, source.study) }); } catch (error) { work.fail(error); }
    field.value = state.group.join(", ");
  }
  async function run() {
    const mine = key(), units = [...state.group];
    measure.hidden = true;
    const answer = await work.run(`Silencing ${count(units.length, "unit")} together …`, "together", { units });
    if (answer) known.set(mine, answer);
    if (key() === mine) answer ? draw() : measure.hidden = false;
  }
  async function draw() {
    const group = state.group, { study } = source, number = group.length, one = number === 1;
    field.value = group.join(", ");
    add.textContent = `${group.includes(state.unit) ? "Remove" : "Add"} unit ${state.unit}`;
    undo.disabled = !before.length;
    clear.disabled = !number;
    if (work.holder.hidden) measure.hidden = true;
    const rows = await fresh(Promise.all(group.map(unit => source.row("unit", { unit }))));
    const none = "The group is empty: lasso points above, add the open unit, or type numbers.";
    if (!number) return fill(result, sentence(none), work.said);
    const summed = study.classes.map((_, k) => rows.reduce((sum, row) => sum + row.drop[k], 0)), joint = known.get(key());
    const overall = group.reduce((sum, unit) => sum + app.valueOf("overall_drop", unit), 0);
    const line = `unitlab.ablate_groups(model, images, ${JSON.stringify(study.layer)}, [units])`;
    fill(result, sentence(`One at a time, ${one ? `unit ${group[0]} costs` : `the ${number} units cost`} `,
      h.b(text(overall)), ` points of overall accuracy${one ? "" : " in sum"}`,
      joint && ["; silenced together ", h.b(text(joint.overall))],
      joint ? ` (${count(joint.lost, "image")} lost, ${whole(joint.won)} won).` : "."),
    work.said, classes(summed, joint), note(joint
      ? "Upper bar: the single drops in sum; lower bar: all of them together, filled where q ≤ 0.05."
      : "Bars: the single drops in sum. What the units cost together is not known yet."),
    codeBlock(`units = [${group.join(", ")}]\n${line}`));
    if (joint || !work.holder.hidden) return;
    if (one) return study.complete && run();
    const missing = await app.atHand();
    if (missing) work.fail({ ...missing, message: `What they cost together, the study does not hold. ${missing.message}` });
    else measure.hidden = known.has(key());
  }
  function classes(summed, joint) {
    const { study } = source, by = joint ? joint.drop : summed, k = study.classPlace.get(state.category);
    const order = descending(by).slice(0, MOST_CLASSES);
    if (k !== undefined && finite(by[k]) && !order.includes(k)) order.push(k);
    const heads = ["most damaged classes (images)", "", "single drops in sum", ...(joint ? ["together, points (95 %)"] : [])];
    return barTable("ul-group-table", order.map((at, row) => ({
      ...app.opensClass(study.classes[at]), tabindex: row ? -1 : 0,
      name: [h.bdi(study.classes[at]), h.small(` (${study.n[at]})`)], words: `${text(summed[at])} points in sum`,
      parts: [[summed[at], NaN, NaN, "sum"], ...(joint ? [dropOf(joint, at)] : [])],
      cells: [text(summed[at]), ...(joint ? [saidOf(joint, at)] : [])],
    })), { heads });
  }
  app.on(["group"], () => { if (!undoing) before.push(last); last = state.group; work.stop(); work.clear(); });
  app.on(["held"], () => { before.length = 0; last = state.group; });
  return draw;
}
groupTab.keys = ["group", "measured", "category", "unit", "held"];
