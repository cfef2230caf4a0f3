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
  const { state, set, source } = app, known = new Map(), before = [], work = workView(app);
  let last = state.group, undoing = false, turn = null;
  const field = h.input({ class: "ul-group-units", placeholder: "lasso points above, or type 3, 5, 10-20", size: 34,
    onchange: read });
  const without = () => state.group.filter(unit => unit !== state.unit);
  const add = button("", () => set({ group: state.group.includes(state.unit) ? without() : [...state.group, state.unit] }));
  const undo = button("Undo", () => { undoing = true; set({ group: before.pop() }); undoing = false; draw(); });
  const clear = button("Clear", () => set({ group: [] })), sentence = h.p({ class: "ul-sentence" }), table = h.div(),
    code = h.div();
  const measure = button("Silence them together", run, { title: "run the network with all units of the group silenced" });
  panel.append(controls(h.label("Units ", field), add, undo, clear, measure, work.holder), sentence, work.said, table, code);

  const key = () => source.study.key + [...state.group].sort((a, b) => a - b).join();
  function read() {
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
  async function draw() {
    const group = state.group, { study } = source, mine = turn = {}, number = group.length;
    field.value = group.join(", ");
    add.textContent = `${group.includes(state.unit) ? "Remove" : "Add"} unit ${state.unit}`;
    undo.disabled = !before.length;
    clear.disabled = !number;
    if (work.holder.hidden) measure.hidden = true;
    if (!number) {
      sentence.textContent = "The group is empty: lasso points above, add the open unit, or type numbers.";
      table.replaceChildren();
      return code.replaceChildren();
    }
    const line = `unitlab.ablate_groups(model, images, ${JSON.stringify(study.layer)}, [units])`;
    code.replaceChildren(codeBlock(`units = [${group.join(", ")}]\n${line}`));
    const rows = await Promise.all(group.map(unit => source.row("unit", { unit })));
    if (mine !== turn) return;
    const summed = study.classes.map((_, k) => rows.reduce((sum, row) => sum + row.drop[k], 0)), joint = known.get(key());
    const overall = group.reduce((sum, unit) => sum + app.values("overall_drop")[study.place.get(unit)], 0);
    sentence.replaceChildren(`One at a time, ${number === 1 ? `unit ${group[0]} costs` : `the ${number} units cost`} `,
      h.b(text(overall)),
      ` points of overall accuracy${number === 1 ? "" : " in sum"}`,
        ...(joint ? ["; silenced together ", h.b(text(joint.overall)),
        ` (${count(joint.lost, "image")} lost, ${joint.won.toLocaleString("en")} won).`] : ["."]));
    classes(summed, joint);
    if (joint || !work.holder.hidden) return;
    if (number === 1) return study.complete && run();
    const missing = await app.atHand();
    if (missing) work.fail({ ...missing, message: `What they cost together, the study does not hold. ${missing.message}` });
    else measure.hidden = known.has(key());
  }
  function classes(summed, joint) {
    const { study } = source, by = joint ? joint.drop : summed, k = study.classPlace.get(state.category);
    const order = descending(by).slice(0, MOST_CLASSES);
    if (k !== undefined && finite(by[k]) && !order.includes(k)) order.push(k);
    const scale = share(...ends(order.flatMap(at => [summed[at], ...(joint ? dropOf(joint, at).slice(0, 3) : [])])));
    const rows = order.map(at => {
      const parts = [[summed[at], NaN, NaN, "sum"], ...(joint ? [dropOf(joint, at)] : [])];
      const words = joint && `${limited(joint.drop[at], joint.low[at], joint.high[at])}, ${probability("q", joint.q[at])}`;
      return h.tr({ "data-category": study.classes[at] },
        h.th({ scope: "row" }, h.bdi(study.classes[at]), h.small(` (${study.n[at]})`)),
        h.td(drops(parts, scale, `${text(summed[at])} points in sum`)), h.td(text(summed[at])), words && h.td(words));
    });
    const heads = ["most damaged classes (images)", "", "single drops in sum", ...(joint ? ["together, points (95 %)"] : [])];
    const both = "Upper bar: the single drops in sum; lower bar: all of them together, filled where q ≤ 0.05.";
    table.replaceChildren(h.table({ class: "ul-bars ul-group-table" },
      h.thead(h.tr(heads.map(head => h.th({ scope: "col" }, head)))),
      h.tbody(rows)), note(joint ? both : "Bars: the single drops in sum. What the units cost together is not known yet."));
  }
  app.on(["group"], () => { if (!undoing) before.push(last); last = state.group; work.stop(); work.clear(); });
  app.on(["held"], () => { before.length = 0; last = state.group; });
  return draw;
}
groupTab.keys = ["group", "measured", "category", "unit", "held"];
