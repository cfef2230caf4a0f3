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

function groupTab(app, again) {
  const { state, set, source } = app, before = [], placeholder = "lasso points above, or type 3, 5, 10-20";
  const key = () => source.study.key + [...state.group].sort((a, b) => a - b).join();
  const ask = () => [`Silencing ${count(state.group.length, "unit")} together …`, "together", { units: [...state.group] }];
  const title = "run the network with all units of the group silenced";
  const lacking = "What they cost together, the study does not hold. ";
  const work = keptWork(app, again, key, ask, "Silence them together", { title }, lacking);
  const field = h.input({ class: "ul-group-units", placeholder, size: 38, onchange: read });
  let last = state.group;
  app.on(["group"], () => { before.push(last); last = state.group; work.stop(); work.clear(); });
  app.on(["held"], () => { before.length = 0; last = state.group; });

  function read() {
    work.clear();
    try { set({ group: unitsIn(field.value, source.study) }); } catch (error) { work.fail(error); }
    field.value = state.group.join(", ");
  }
  // what is undone is no step by itself
  const undo = () => { set({ group: before.pop() ?? [] }); before.pop(); };
  function classes(summed, joint) {
    const { study } = source, by = joint ? joint.drop : summed, k = study.classPlace.get(state.category);
    const order = descending(by).slice(0, MOST_CLASSES);
    if (k !== undefined && finite(by[k]) && !order.includes(k)) order.push(k);
    const together = joint ? ["together, points (95 %)"] : [];
    const heads = ["most damaged classes (images)", "", "single drops in sum, points", ...together];
    return barTable("ul-group-table", order.map((at, row) => ({
      ...app.opensClass(study.classes[at]), tabindex: row ? -1 : 0,
      name: [h.bdi(study.classes[at]), h.small(` (${study.n[at]})`)], words: `${text(summed[at])} points in sum`,
      parts: [[summed[at], NaN, NaN, "sum"], ...(joint ? [dropOf(joint, at)] : [])],
      cells: [text(summed[at]), ...(joint ? [saidOf(joint, at)] : [])],
    })), { heads });
  }
  return async () => {
    const { group, unit: open } = state, { study } = source, number = group.length, one = number === 1;
    field.value = group.join(", ");
    if (number > 1) work.offer();
    else if (one && study.complete && !work.found() && work.holder.hidden) work.run();
    const rows = await Promise.all(group.map(unit => source.row("unit", { unit }))), joint = work.found();
    const bar = controls(h.label("Units ", field),
      button(`${group.includes(open) ? "Remove" : "Add"} unit ${open}`, () => set({ group: toggled(state.group, open) })),
      button("Undo", undo, { disabled: !before.length }), button("Clear", () => set({ group: [] }), { disabled: !number }),
      number > 1 && work.start, work.holder);
    const none = "The group is empty: lasso points above, add the open unit, or type numbers.";
    if (!number) return [bar, sentence(none), work.said];
    const summed = study.classes.map((_, k) => rows.reduce((sum, row) => sum + row.drop[k], 0));
    const overall = group.reduce((sum, unit) => sum + app.valueOf("overall_drop", unit), 0);
    const line = `unitlab.ablate_groups(model, images, ${JSON.stringify(study.layer)}, [units])`;
    return [bar, sentence(`One at a time, ${one ? `unit ${group[0]} costs` : `the ${number} units cost`} `,
      h.b(text(overall)), ` points of overall accuracy${one ? "" : " in sum"}`,
      joint && ["; silenced together ", h.b(text(joint.overall))],
      joint ? ` (${count(joint.lost, "image")} lost, ${whole(joint.won)} won).` : "."),
    work.said, classes(summed, joint), note(joint
      ? "Upper bar: the single drops in sum; lower bar: all of them together, filled where q ≤ 0.05."
      : "Bars: the single drops in sum. What the units cost together is not known yet."),
    codeBlock(`units = [${group.join(", ")}]\n${line}`)];
  };
}
groupTab.keys = ["group", "measured", "category", "unit", "held"];
