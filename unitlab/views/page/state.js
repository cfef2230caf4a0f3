// What is chosen: one set of values, told once to whoever draws them.
const PLACE = ["study", "layer", "ablation", "unit", "category", "y"];
const same = (a, b) => a === b
  || (Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((each, i) => each === b[i]));

function makeState(first, failed) {
  const state = { ...first }, heard = [];
  let changed = null;
  function tell() {
    while (changed.size) {
      const now = changed;
      changed = new Set();
      for (const [names, call] of heard) {
        if (!names.some(name => now.has(name))) continue;
        try { call(now); } catch (error) { failed(error); }
      }
    }
  }
  function set(values) {
    const names = Object.keys(values).filter(name => !same(state[name], values[name]));
    Object.assign(state, values);
    // what those who are told set themselves is told in the next round
    if (changed) return names.forEach(name => changed.add(name));
    changed = new Set(names);
    try { tell(); } finally { changed = null; }
  }
  return { state, set, on: (names, call) => heard.push([names, call]) };
}

// Back and Forward over what was open; where another layer has to be opened for it, it arrives later
function makeHistory({ state, on }, go, changed) {
  const here = () => Object.fromEntries(PLACE.map(name => [name, state[name]])), past = [], future = [];
  let now = here(), moving = false;
  on(PLACE, () => {
    const next = here(), before = now;
    now = next;
    // an axis alone is no other place, but goes with one
    if (PLACE.every(name => name === "y" || same(next[name], before[name]))) return;
    if (!moving) { past.push(before); future.length = 0; }
    moving = false;
    changed();
  });
  const move = (from, to) => () => {
    if (!from.length) return;
    to.push(now);
    moving = true;
    go(from.pop());
    changed();
  };
  return { back: move(past, future), forward: move(future, past), past, future };
}
