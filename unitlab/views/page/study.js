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
  return { live: false, study, row: (kind, ask) => kinds[kind](ask), ahead: () => {},
    topAsk: unit => ({ unit, category: "" }) };
}
