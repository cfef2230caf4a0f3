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
  const named = measured.measures.map(([name, label], at) => [name, { label, values: values.subarray(at * U, (at + 1) * U) }]);
  return {
    ...held, complete: measured.complete, variables: named.map(([name]) => name), measure: Object.fromEntries(named),
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
function comparisons({ label, ids, changed, z }, { n, place, units }, rows) {
  const sets = changed.map(({ lost, won }) => ({ lost: new Set(lost), won: new Set(won) }));
  function counts(...some) {
    const out = new Float32Array(n.length);
    for (const image of some.flatMap(images => [...images])) out[label[image]]++;
    return out;
  }
  function compare({ a, unit }) {
    const i = place.get(a.unit), j = place.get(unit), [A, B, one, other] = [rows[i], rows[j], sets[i], sets[j]];
    const images = {
      both: one.lost.intersection(other.lost), a: one.lost.difference(other.lost), b: other.lost.difference(one.lost),
    };
    const broken = counts(images.a, other.won.difference(one.won)), fixed = counts(images.b, one.won.difference(other.won));
    const limit = side => broken.map((value, k) => {
      const [p, q] = [value, fixed[k]].map(some => (some + 1) / (n[k] + 2));
      const error = Math.sqrt((p + q - (p - q) ** 2) / (n[k] + 2));
      return z === null || !n[k] ? NaN : 100 * clamped(p - q + side * z * error, -1, 1);
    });
    const any = one.lost.union(other.lost).size;
    return {
      a: A.drop, a_low: A.low, a_high: A.high, b: B.drop, b_low: B.low, b_high: B.high, neither: label.length - any,
      difference: broken.map((value, k) => 100 * (value - fixed[k]) / n[k]), low: limit(-1), high: limit(1), q: [],
      jaccard: any ? images.both.size / any : null, ...Object.fromEntries(Object.entries(images).flatMap(([name, some]) =>
        [[`${name}_images`, [...some]], [`${name}_class`, Array.from(some, image => label[image])]])),
    };
  }
  function alike({ unit }) {
    const own = sets[place.get(unit)];
    const overlap = sets.map(each => each === own ? 0 : own.lost.intersection(each.lost).size / own.lost.union(each.lost).size);
    return { units: descending(overlap).filter(i => overlap[i] > 0).slice(0, 8).map(i => [units[i], overlap[i]]) };
  }
  return { compare, alike, tiles: ({ images }) => ({ ids: images.map(image => ids[image]) }) };
}

// a report carries inside itself what the kernel would answer
function reportSource(data) {
  const bytes = packed => new DataView(Uint8Array.from(atob(packed), letter => letter.charCodeAt(0)).buffer);
  const opened = ({ answer, buffers }) => unpacked(answer, buffers.map(bytes));
  const packed = Object.entries(data.measured).map(([name, value]) => [name, typeof value === "string" ? bytes(value) : value]);
  const study = studyOf(data.held, Object.fromEntries(packed)), rows = data.units.map(opened), tops = {};
  const kinds = {
    unit: ({ unit }) => rows[study.place.get(unit)],
    class: ({ category }) => {
      const k = study.classPlace.get(category), values = name => [name, Float32Array.from(rows, row => row[name][k])];
      return Object.fromEntries(["drop", "low", "high", "q"].map(values));
    },
    top: ({ unit }) => tops[unit] ??= withPictures(opened(data.tops[study.place.get(unit)])),
    best: async ({ units }) => {
      const found = await Promise.all(units.map(unit => kinds.top({ unit })));
      return { tiles: found.map(row => row.tiles?.[0] ?? null) };
    },
    ...comparisons(data, study, rows),
  };
  return { live: false, study, row: async (kind, ask) => kinds[kind](ask) };
}
