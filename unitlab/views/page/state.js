// What is chosen: one set of values, told once to whoever draws them.
const PLACE = ["study", "layer", "ablation"], OPENED = [...PLACE, "unit", "category", "y"];
const same = (a, b) => a === b
  || (Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((each, i) => each === b[i]));
const sameIn = (names, a, b) => names.every(name => same(a[name], b[name]));

function makeState(failed) {
  const state = {}, heard = [];
  let changed = null;
  function set(values) {
    const names = Object.keys(values).filter(name => !same(state[name], values[name]));
    Object.assign(state, values);
    // what those who are told set themselves is told in the next round
    if (changed) return names.forEach(name => changed.add(name));
    changed = new Set(names);
    while (changed.size) {
      const now = changed;
      changed = new Set();
      for (const [names, call] of heard.filter(([names]) => names.some(name => now.has(name)))) {
        try { call(now); } catch (error) { failed(error); }
      }
    }
    changed = null;
  }
  return { state, set, on: (names, call) => heard.push([names, call]) };
}

// Back and Forward over what was open; where another layer has to be opened for it, it arrives later
function historyView(app) {
  const { $, root, state, on, listen } = app, visited = [];
  let at = -1;
  function move(by) {
    if (visited[at + by]) app.go(visited[at += by]);
    $("backward").disabled = at <= 0;
    $("forward").disabled = at === visited.length - 1;
  }
  on(OPENED, () => {
    const here = Object.fromEntries(OPENED.map(name => [name, state[name]]));
    // an axis alone is no other place, but goes with one
    if (at >= 0 && sameIn(OPENED.slice(0, -1), here, visited[at])) visited[at] = here;
    else visited.splice(++at, Infinity, here);
    move(0);
  });
  listen("backward", () => move(-1));
  listen("forward", () => move(1));
  // a report leaves these keys to the browser, whose address says what is open
  if (app.source.live) root.addEventListener("keydown", keyed({ ArrowLeft: -1, ArrowRight: 1 }, move, true));
}
