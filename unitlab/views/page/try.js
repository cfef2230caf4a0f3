// Try an image: a picture that was clicked anywhere or a file, through the network with units silenced; and the units that lose it.
function tryTab(app, panel) {
  const { state, set, source } = app, work = workView(app), said = element("p", { class: "ul-sentence" }), loses = element("p", { class: "ul-note" });
  const shown = element("div", { class: "ul-try-picture" }), bars = element("div"), ranked = element("div", { class: "ul-chips" }), chips = element("div", { class: "ul-chips" });
  const file = element("input", { type: "file", accept: "image/*", "aria-label": "a picture of your own", onchange: () => file.files[0] && own(file.files[0]) }), strength = element("input", { type: "range", min: 0, max: 2, step: .1, value: 0, "aria-label": "strength of the chosen units", oninput: run });
  const amount = element("span"), live = element("div", { class: "ul-split" }, element("div", { class: "ul-narrow" }, shown), element("div", {}, said, bars, element("p", { class: "ul-note" }, "One picture: no interval.")), element("div", { class: "ul-narrow" }, element("h3", {}, "What silencing each unit takes from the margin, logits"), work.holder, ranked));
  const controls = element("div", { class: "ul-controls" }, element("label", {}, "Strength ", strength), amount, button("Silence the group", () => choose(state.group)), button("Solo", () => choose([state.unit])), button("Reset", () => { strength.value = 0; choose([]); }));
  let chosen = [], order = [], picture_ = null, turn = null, ranking = null;
  panel.classList.add("ul-try");
  panel.append(element("div", { class: "ul-controls" }, element("label", {}, "Your picture ", file), "or click one in any view, paste, or drop it here"), work.said, live, controls, chips, loses);
  panel.addEventListener("dragover", event => event.preventDefault());
  panel.addEventListener("drop", event => { event.preventDefault(); if (event.dataTransfer.files[0]) own(event.dataTransfer.files[0]); });
  app.root.addEventListener("paste", event => { const given = [...event.clipboardData.files].find(each => each.type.startsWith("image/")); if (given) own(given); });

  async function own(given) {
    const address = await new Promise(done => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(given); });
    await open(address);
    set({ tab: TRY, picture: null });
  }
  async function open(given) {
    picture_ = given;
    order = [];
    ranking = null;
    if (given !== true) await source.work("try_open", { picture: given });
    await run();
    const mine = await work.run("Silencing each unit …", "try_rank", {});
    if (mine && picture_ === given) { ranking = mine.units; list(); }
  }
  // one state: chips, the group and the squares of the units' points
  const choose = units => { chosen = [...units]; if (!same(state.group, chosen)) set({ group: chosen }); else run(); };
  const toggle = unit => choose(chosen.includes(unit) ? chosen.filter(each => each !== unit) : [...chosen, unit]);
  function list() {
    const chip = (unit, words) => button(words, () => toggle(unit), { "data-unit": unit, "aria-pressed": String(chosen.includes(unit)) });
    ranked.replaceChildren(...(ranking ?? []).map(([unit, drop]) => chip(unit, `${unit}  ${text(drop, 2)}`)));
    chips.replaceChildren(...chosen.filter(unit => !(ranking ?? []).some(([each]) => each === unit)).map(unit => chip(unit, String(unit))));
  }
  async function run() {
    amount.textContent = `${Number(strength.value).toFixed(1)}×`;
    list();
    if (picture_ === null) return;
    const mine = turn = {};
    bars.classList.add("ul-stale");
    let found;
    try { found = await withPictures(await source.work("try", { unit: state.unit, strengths: chosen.map(unit => [unit, Number(strength.value)]) })); } catch (error) { if (mine === turn) { work.fail(error); live.hidden = controls.hidden = true; } return; }
    if (mine !== turn) return; // the newest request wins
    live.hidden = controls.hidden = false;
    draw(found);
  }
  function draw(found) {
    const what = chosen.length ? `With unit${chosen.length > 1 ? "s" : ""} ${chosen.join(", ")} ${Number(strength.value) === 0 ? "silenced" : `at ${strength.value}×`}` : "With every unit as it is", before = found.classes.reduce((a, b) => b[1] > a[1] ? b : a), after = found.classes.find(([name]) => name === found.now);
    said.replaceChildren(`${what}: `, bold(found.now), ` ${text(100 * after[2], 0)} %, was `, bold(before[0]), ` ${text(100 * before[1], 0)} %`);
    // rows never jump: who is there stays where it is
    order = [...order.filter(name => found.classes.some(([each]) => each === name)), ...found.classes.map(([name]) => name).filter(name => !order.includes(name))];
    bars.classList.remove("ul-stale");
    bars.replaceChildren(element("table", { class: "ul-bars ul-unit-bars" }, element("tbody", {}, order.map(name => {
      const [, was, now] = found.classes.find(([each]) => each === name), bar = (value, y, kind) => element("rect", { class: kind, x: 0, y, width: `${100 * value}%`, height: "38%" });
      return element("tr", {}, element("th", { scope: "row", title: name }, element("bdi", {}, name)), element("td", {}, element("svg", { role: "img", "aria-label": `${text(100 * was)} % before, ${text(100 * now)} % now` }, bar(was, "8%", "sum"), bar(now, "52%", (now < was ? "damage" : "help") + " sure"))), element("td", {}, `${text(100 * was)} → ${text(100 * now)} %`));
    }))));
    shown.replaceChildren(picture(found.sheet, 0, `the picture with the map of unit ${state.unit}`, found.tiles[0].map, state.image_style, state.image_strength), element("p", { class: "ul-note" }, `map of unit ${state.unit}`));
  }
  async function losers(image) {
    const found = await source.row("losers", { image }), { classes, units } = source.study, right = found.before === found.label, changed = found.units.filter(([, after]) => (after === found.label) !== right);
    loses.replaceChildren(`${found.image}, ${classes[found.label]}, is predicted ${right ? "right" : classes[found.before]} before; ${count(changed.length, "unit")} of ${units.length} ${right ? "lose" : "win"} it when silenced: `,
      ...changed.slice(0, 60).flatMap(([unit, after]) => [button(`${unit} → ${shortened(classes[after], 20)}`, () => set({ unit }), { "data-loser": unit }), " "]));
    return found.image;
  }
  return async changed => {
    if (!chosen.length || changed.has("group")) chosen = [...state.group];
    if (changed.has("held")) { picture_ = null; loses.replaceChildren(); }
    live.hidden = controls.hidden = picture_ === null;
    if (changed.has("tried")) return open(true);
    if (changed.has("picture") && state.picture !== null) return open(await losers(state.picture));
    return run();
  };
}
tryTab.keys = ["picture", "unit", "group", "held", "tried", "image_style", "image_strength"];
