// A study as the views read it: measures of all units and names at once, everything else a row at a time.
const OWN_DROP = "accuracy_drop"; // on an axis: that of the chosen class

function indexed(study) {
  study.place = new Map([...study.units].map((unit, i) => [unit, i]));
  study.classPlace = new Map(study.classes.map((name, k) => [name, k]));
  study.measure = Object.fromEntries(study.measures.map(measure => [measure.name, measure]));
  return study;
}

// what the report carries inside itself; every row is there
function reportSource(data) {
  const bytes = packed => Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  const hundredths = packed => Float32Array.from(new Int16Array(bytes(packed).buffer), value => value === -32768 ? NaN : value / 100);
  const floats = packed => new Float32Array(bytes(packed).buffer), parts = Object.fromEntries(["drop", "low", "high", "precision", "balanced", "margin", "own"].map(name => [name, hundredths(data[name])]));
  const C = data.classes.length;
  const study = indexed({ ...data, complete: true, worst: data.worst, label: data.name, variables: data.measures.map(each => each.name) });
  [study.worstLow, study.worstHigh] = [hundredths(data.worst_low), hundredths(data.worst_high)];
  const cells = { ...parts, q: floats(data.q), own_q: floats(data.own_q) };
  const every = pick => Object.fromEntries(Object.entries(cells).map(([name, all]) => [name, pick(all)]));
  const tops = new Map();
  async function top(i) {
    const all = data.pictures;
    if (!all) return { missing: "The study keeps no thumbnails, so there are no pictures to show." };
    const shown = all.shown[i], sheet = all.sheets[i];
    if (!sheet) return { tiles: [] };
    const [rows, columns] = all.mapped, maps = bytes(all.maps[i]), size = rows * columns;
    const tiles = shown.map(([k, activation, id], rank) => ({ k, activation, id, place: rank, map: Object.assign(maps.slice(rank * size, (rank + 1) * size), { shape: all.mapped }) }));
    return { tiles, sheet: { bitmap: await bitmap(bytes(sheet)), width: all.width, height: all.height, across: Math.min(all.across, shown.length) } };
  }
  const kinds = {
    unit: ({ unit }) => { const i = study.place.get(unit); return { ...every(all => all.subarray(i * C, (i + 1) * C)), finding: data.findings[i] }; },
    class: ({ category }) => { const k = study.classPlace.get(category); return every(all => Float32Array.from(study.units, (_, i) => all[i * C + k])); },
    top: ({ unit }) => { const i = study.place.get(unit); if (!tops.has(i)) tops.set(i, top(i).then(found => { tops.set(i, found); return found; })); return tops.get(i); },
  };
  kinds.best = async ({ units }) => ({ tiles: await Promise.all(units.map(async unit => { const found = await kinds.top({ unit }); return found.tiles?.length ? { ...found.tiles[0], sheet: found.sheet } : null; })) });
  return { live: false, study, row: (kind, ask) => kinds[kind](ask), ahead: () => {}, topAsk: unit => ({ unit, category: "" }) };
}
