// A study as the views read it: measures of all units and names at once, everything else a row at a time.
const OWN_DROP = "accuracy_drop"; // on an axis: that of the chosen class
const TYPES = { f: Float32Array, i: Int32Array, u: Uint8Array, h: Int16Array };

function typed(view, kind) {
  const values = new TYPES[kind](view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  // hundredths, as a file keeps them
  return kind === "h" ? Float32Array.from(values, value => value === -32768 ? NaN : value / 100) : values;
}
const unpacked = (answer, buffers) =>
  ({ ...answer, ...Object.fromEntries((answer.arrays ?? []).map(([name, kind], at) => [name, typed(buffers[at], kind)])) });

function studyOf(held, measured) {
  const U = held.units.length, values = typed(measured.values, "f");
  const measures = measured.measures.map(([name, label], at) =>
    ({ name, label, values: values.subarray(at * U, (at + 1) * U) }));
  return {
    ...held, complete: measured.complete, variables: measures.map(each => each.name),
    measure: Object.fromEntries(measures.map(each => [each.name, each])),
    worst: typed(measured.worst, "i"), worstLow: typed(measured.worst_low, "f"), worstHigh: typed(measured.worst_high, "f"),
    place: new Map(held.units.map((unit, i) => [unit, i])), classPlace: new Map(held.classes.map((name, k) => [name, k])),
  };
}
// pictures arrive as a file, which is read before a row counts as there
async function withPictures(row) {
  if (!row.laid_out) return row;
  const size = row.maps ? row.mapped[0] * row.mapped[1] : 0, sheet = { bitmap: await bitmap(row.sheet), ...row.laid_out };
  const about = { shape: row.mapped, over: row.over };
  const mapOf = ({ place, map, least }) =>
    map ? Object.assign(row.maps.slice(place * size, (place + 1) * size), about, { least: least ?? null }) : null;
  // a tile of the wall brings its sheet, which in a report is its unit's own
  return { ...row, sheet, tiles: row.tiles?.map(tile => tile && { ...tile, map: mapOf(tile), sheet }) };
}

// what `unitlab.compare` gives, from the images that two units lose and win; the interval is Bonett and Price's (2012)
function comparisons({ label, ids, changed, z }, study, units) {
  const { n } = study, sets = changed.map(({ lost, won }) => ({ lost: new Set(lost), won: new Set(won) }));
  const without = (some, others) => some.filter(image => !others.has(image)), at = unit => study.place.get(unit);
  const shared = (i, j) => changed[i].lost.filter(image => sets[j].lost.has(image));
  function counts(i, j) {
    const out = new Float32Array(n.length), one = changed[i], other = changed[j];
    for (const image of [...without(one.lost, sets[j].lost), ...without(other.won, sets[i].won)]) out[label[image]]++;
    return out;
  }
  function compare({ a, unit }) {
    const i = at(a.unit), j = at(unit), broken = counts(i, j), fixed = counts(j, i);
    const limit = side => broken.map((value, k) => {
      const [p, q] = [(value + 1) / (n[k] + 2), (fixed[k] + 1) / (n[k] + 2)],
        error = Math.sqrt((p + q - (p - q) ** 2) / (n[k] + 2));
      return z === null || !n[k] ? NaN : 100 * Math.min(Math.max(p - q + side * z * error, -1), 1);
    });
    const [A, B] = [units[i], units[j]], [loses, others] = [changed[i].lost, changed[j].lost], both = shared(i, j);
    const images = { both, a: without(loses, sets[j].lost), b: without(others, sets[i].lost) };
    const any = loses.length + others.length - both.length;
    return {
      a: A.drop, a_low: A.low, a_high: A.high, b: B.drop, b_low: B.low, b_high: B.high, neither: label.length - any,
      difference: broken.map((value, k) => 100 * (value - fixed[k]) / n[k]), low: limit(-1), high: limit(1),
        q: broken.map(() => NaN),
      jaccard: any ? both.length / any : null, ...Object.fromEntries(Object.entries(images).flatMap(([name, some]) =>
        [[`${name}_images`, some], [`${name}_class`, some.map(image => label[image])]])),
    };
  }
  function alike({ unit }) {
    const own = at(unit), size = i => changed[i].lost.length;
    const overlap = Float32Array.from(units, (_, i) => {
      const both = shared(own, i).length;
      return i === own ? 0 : both / (size(own) + size(i) - both);
    });
    return { units: descending(overlap).filter(i => overlap[i] > 0).slice(0, 8).map(i => [study.units[i], overlap[i]]) };
  }
  return { compare, alike, tiles: ({ images }) => ({ ids: images.map(image => ids[image]) }) };
}

// a report carries inside itself what the kernel would answer
function reportSource(data) {
  const bytes = packed => new DataView(Uint8Array.from(atob(packed), letter => letter.charCodeAt(0)).buffer);
  const opened = ({ answer, buffers }) => unpacked(answer, buffers.map(bytes));
  const packed = Object.entries(data.measured).map(([name, value]) => [name, typeof value === "string" ? bytes(value) : value]);
  const study = studyOf(data.held, Object.fromEntries(packed)), units = data.units.map(opened), tops = new Map();
  const kinds = {
    unit: ({ unit }) => units[study.place.get(unit)],
    class: ({ category }) => {
      const k = study.classPlace.get(category);
      const values = name => [name, Float32Array.from(units, row => row[name][k])];
      return Object.fromEntries(["drop", "low", "high", "q"].map(values));
    },
    top: ({ unit }) => {
      if (!tops.has(unit)) {
        const found = withPictures(opened(data.tops[study.place.get(unit)]));
        tops.set(unit, found);
        found.then(row => tops.set(unit, row));
      }
      return tops.get(unit);
    },
    best: async ({ units }) => {
      const found = await Promise.all(units.map(unit => kinds.top({ unit })));
      return { tiles: found.map(row => row.tiles?.[0] ?? null) };
    },
  };
  Object.assign(kinds, comparisons(data, study, units));
  return { live: false, study, row: (kind, ask) => kinds[kind](ask), ahead: () => {},
    topAsk: unit => ({ unit, category: "" }) };
}
