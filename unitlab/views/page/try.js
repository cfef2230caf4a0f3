// Try an image: a picture that was clicked or a file, through the network with units silenced; and the units that lose it.
function tryTab(app, _, panel) {
  const { state, set, source } = app, work = workView(app), fresh = newest(), loses = note(), times = h.span();
  const live = h.div({ class: "ul-split" }), chips = h.div({ class: "ul-chips" });
  const file = h.input({ type: "file", accept: "image/*", "aria-label": "a picture of your own" });
  const range = { type: "range", min: 0, max: 2, step: .1, value: 0, "aria-label": "strength of the chosen units" };
  const strength = h.input({ ...range, oninput: run });
  const bar = controls(h.label("Strength ", strength), times, button("Silence the group", () => { strength.value = 0; run(); }),
    button("Solo", () => choose([state.unit])), button("Reset", () => { strength.value = 0; region = null; choose([]); }));
  let order = [], tried = null, ranking = [], region = null;
  panel.classList.add("ul-try");
  panel.append(controls(h.label("Your picture ", file), "or click one in any view, paste, or drop it here"), work.said, live,
    bar, loses);
  file.addEventListener("change", () => own(file.files));
  panel.addEventListener("dragover", event => event.preventDefault());
  panel.addEventListener("drop", event => { event.preventDefault(); own(event.dataTransfer.files); });
  app.root.addEventListener("paste", event => own(event.clipboardData.files));

  function own(files) {
    const given = [...files].find(each => each.type.startsWith("image/")), reader = new FileReader();
    reader.onload = () => { set({ tab: TRY, picture: null }); open(reader.result); };
    if (given) reader.readAsDataURL(given);
  }
  async function open(given) {
    [tried, order, ranking, region] = [given, [], [], null];
    if (given !== true) await source.work("try_open", { picture: given });
    await run();
    const take = units => { if (units && tried === given) { ranking = units; list(); } };
    take((await work.run("Silencing each unit …", "try_rank", {}, take))?.units);
  }
  // one state: chips, the group and the squares of the units' points
  const choose = units => same(state.group, units) ? run() : set({ group: units });
  const limit = part => { region = part; run(); };
  function list() {
    const chip = ([unit, drop]) => button(drop === undefined ? String(unit) : `${unit}  ${text(drop, 2)}`,
      () => choose(toggled(state.group, unit)), { "data-unit": unit, "aria-pressed": String(state.group.includes(unit)) });
    const others = state.group.filter(unit => !ranking.some(([each]) => each === unit));
    fill(chips, ranking.map(chip), others.map(unit => chip([unit])));
  }
  async function run() {
    times.textContent = `${Number(strength.value).toFixed(1)}×`;
    list();
    if (tried === null) return;
    const strengths = state.group.map(unit => [unit, Number(strength.value)]);
    live.classList.add("ul-stale");
    try {
      draw(await fresh(source.work("try", { unit: state.unit, strengths, region }).then(withPictures)));
      live.hidden = bar.hidden = false;
    } catch (error) { work.fail(error); live.hidden = bar.hidden = true; }
  }
  function draw({ classes, now, sheet, tiles: [{ map }] }) {
    const how = Number(strength.value) === 0 ? "silenced" : `at ${strength.value}×`, percent = value => text(100 * value, 0);
    const chosen = state.group, where = region ? " in the brushed part" : "";
    const some = `With unit${chosen.length > 1 ? "s" : ""} ${chosen.join(", ")} ${how}${where}`;
    const first = classes.reduce((a, b) => b[1] > a[1] ? b : a), after = classes.find(([name]) => name === now);
    // rows never jump: who is there stays where it is
    const names = classes.map(([name]) => name);
    order = [...new Set([...order, ...names])].filter(name => names.includes(name));
    const rows = order.map(name => {
      const [, was, is] = classes[names.indexOf(name)], words = `${text(100 * was)} → ${text(100 * is)} %`;
      const parts = [[was, NaN, NaN, "sum"], [is, NaN, NaN, `${is < was ? "damage" : "help"} sure`]];
      return { title: name, name: h.bdi(name), parts, words, cells: [words] };
    });
    const spatial = map.length > 1, brushed = h.div({ class: "ul-region", hidden: true });
    const place = ([left, top, right, bottom]) => {
      brushed.hidden = false;
      brushed.style.inset = [top, 1 - right, 1 - bottom, left].map(side => `${100 * side}%`).join(" ");
    };
    if (region) place(region);
    live.classList.remove("ul-stale");
    fill(live, h.div({ class: "ul-narrow" },
      h.div({ class: "ul-brush", onpointerdown: event => spatial && brush(event, place) },
        picture(sheet, 0, `the picture with the map of unit ${state.unit}`, map, state), brushed),
      note(`map of unit ${state.unit}`, spatial && "; draw on it to silence there alone"),
      region && button("Everywhere", () => limit(null))),
    h.div(sentence(chosen.length ? some : "With every unit as it is", ": ", bold(now), ` ${percent(after[2])} %, was `,
      bold(first[0]), ` ${percent(first[1])} %`),
    barTable("ul-unit-bars", rows, { scale: share(0, 1) }), note("One picture: no interval.")),
    h.div({ class: "ul-narrow" }, h.h3("What silencing each unit takes from the margin, logits"), work.holder, chips));
  }
  function brush(down, place) {
    const holder = down.currentTarget, { left, top, width, height } = holder.getBoundingClientRect();
    const spot = ({ clientX: x, clientY: y }) => [clamped((x - left) / width, 0, 1), clamped((y - top) / height, 0, 1)];
    const [x, y] = spot(down), between = ([u, v]) => [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
    down.preventDefault();
    dragged(down, holder, event => place(between(spot(event))), event => {
      const part = between(spot(event));
      limit(part[2] - part[0] > .02 && part[3] - part[1] > .02 ? part : null);
    });
  }
  async function losers(image) {
    const found = await source.row("losers", { image }), { classes, units } = source.study;
    const right = found.before === found.label, before = right ? "right" : classes[found.before];
    const changed = found.units.filter(([, after]) => (after === found.label) !== right), verb = right ? "lose" : "win";
    const one = ([unit, after]) =>
      [button(`${unit} → ${shortened(classes[after], 20)}`, () => set({ unit }), { "data-loser": unit }), " "];
    const end = changed.length ? ":" : "";
    fill(loses, `${found.image}, ${classes[found.label]}, is predicted ${before} before; `
      + `${count(changed.length, "unit")} of ${units.length} ${verb} it when silenced${end} `, changed.slice(0, 60).map(one));
    return found.image;
  }
  return async changed => {
    if (changed.has("held")) { tried = null; fill(loses); }
    live.hidden = bar.hidden = tried === null;
    if (changed.has("tried")) return open(true);
    if (changed.has("picture") && state.picture !== null) return open(await losers(state.picture));
    return run();
  };
}
tryTab.keys = ["picture", "unit", "group", "held", "tried", "image_style", "image_strength"];
