// The kernel's side of the study: names and measures are in the model, rows are asked for and kept.
const TYPES = { f: Float32Array, i: Int32Array, u: Uint8Array }, MOST_KEPT = 400, OF_DROPS = ["unit", "class", "fit"];

function typed(view, kind) {
  return new TYPES[kind](view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}
function unpacked(answer, buffers) {
  const row = { ...answer };
  (answer.arrays ?? []).forEach(([name, kind], at) => { row[name] = typed(buffers[at], kind); });
  return row;
}
// pictures arrive as a file, which is read before a row counts as there
async function withPictures(row) {
  if (!row.laid_out) return row;
  const size = row.maps ? row.mapped[0] * row.mapped[1] : 0, sheet = { bitmap: await bitmap(row.sheet), ...row.laid_out };
  const mapOf = ({ place, map }) => map ? Object.assign(row.maps.slice(place * size, (place + 1) * size), { shape: row.mapped }) : null;
  // a tile of the wall brings its sheet, which in a report is its unit's own
  return { ...row, sheet, tiles: row.tiles?.map(tile => tile && { ...tile, map: mapOf(tile), sheet }) };
}

function liveSource(model) {
  const kept = new Map(), waiting = new Map();
  // an explorer that is shown twice has two pages, and one kernel that answers both
  const mine = Math.random().toString(36).slice(2);
  let number = 0, batch = [];
  const source = { live: true, model, study: null, lost: () => {} };

  function read() {
    const held = model.get("_held"), measured = model.get("_measured"), U = held.units.length, values = typed(measured.values, "f");
    source.study = indexed({ ...held, complete: measured.complete, variables: measured.measures.map(([name]) => name),
      measures: measured.measures.map(([name, label], at) => ({ name, label, values: values.subarray(at * U, (at + 1) * U) })),
      worst: typed(measured.worst, "i"), worstLow: typed(measured.worst_low, "f"), worstHigh: typed(measured.worst_high, "f") });
    for (const { ask, answer, buffers } of model.get("_ahead")) keep(ask, withPictures(unpacked(answer, buffers)));
  }
  const key = ask => source.study.key + JSON.stringify(Object.entries(ask).sort());
  function keep(ask, row) {
    const name = key(ask);
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
    kept.set(name, row);
    if (row instanceof Promise) row.then(found => kept.get(name) === row && kept.set(name, found), () => kept.delete(name));
    return row;
  }
  function send(ask, told) {
    const id = `${mine} ${++number}`;
    if (!batch.length) queueMicrotask(() => { model.send({ asks: batch }); batch = []; });
    batch.push({ id, ...ask });
    const answer = new Promise((done, failed) => waiting.set(id, { done, failed, told }));
    answer.id = id;
    return answer;
  }
  const hear = (content, buffers) => {
    const one = waiting.get(content.id);
    if (!one) return;
    if (content.progress) return one.told?.(...content.progress);
    waiting.delete(content.id);
    if (content.error) one.failed(Object.assign(new Error(content.error), { command: content.command }));
    else one.done(unpacked(content, buffers));
  };
  model.on("msg:custom", hear);
  const live = function () { if (!this.comm_live) source.lost(); };
  model.on("comm_live_update", live);

  source.row = (kind, ask) => { const whole = { kind, ...ask }; return kept.get(key(whole)) ?? keep(whole, send(whole).then(withPictures)); };
  source.work = (kind, ask, told) => send({ kind, ...ask }, told);
  source.stop = kind => model.send({ asks: [{ kind: "stop", of: kind }] });
  // what the reader may open next
  source.ahead = (...units) => { for (const unit of units) { source.row("unit", { unit }).catch?.(() => {}); source.row("top", source.topAsk(unit)).catch?.(() => {}); } };
  source.topAsk = unit => ({ unit, of: "all", category: "" });
  source.renew = again => { if (again) for (const name of [...kept.keys()]) if (OF_DROPS.some(kind => name.includes(`["kind","${kind}"]`))) kept.delete(name); read(); };
  source.close = () => { model.off("msg:custom", hear); model.off("comm_live_update", live); kept.clear(); waiting.clear(); };
  read();
  return source;
}
