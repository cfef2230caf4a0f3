// The kernel's side of the study: names and measures are in the model, rows are asked for and kept.
const MOST_KEPT = 400, OF_DROPS = ["unit", "class", "fit"];

function liveSource(model) {
  const kept = new Map(), waiting = new Map();
  // an explorer that is shown twice has two pages, and one kernel that answers both
  const mine = Math.random().toString(36).slice(2);
  let number = 0, batch = [];
  const source = { live: true, study: null, lost: () => {} };

  // what is measured later changes rows of drops, and no pictures
  const key = ask => JSON.stringify([source.study.key, OF_DROPS.includes(ask.kind) && source.study.complete,
    Object.entries(ask).sort()]);
  function keep(ask, row) {
    const name = key(ask);
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
    kept.set(name, row);
    row.catch(() => kept.delete(name));
    return row;
  }
  function send(ask, told) {
    const id = `${mine} ${++number}`;
    if (!batch.length) queueMicrotask(() => { model.send({ asks: batch }); batch = []; });
    batch.push({ id, ...ask });
    return new Promise((done, failed) => waiting.set(id, { done, failed, told }));
  }
  function hear(content, buffers) {
    const one = waiting.get(content.id);
    if (!one) return;
    if (content.progress) return one.told?.(...content.progress);
    waiting.delete(content.id);
    if (content.error) one.failed(Object.assign(new Error(content.error), { command: content.command }));
    else one.done(unpacked(content, buffers));
  }
  const live = function () { if (!this.comm_live) source.lost(); };
  model.on("msg:custom", hear);
  model.on("comm_live_update", live);

  source.read = () => {
    source.study = studyOf(model.get("_held"), model.get("_measured"));
    for (const { ask, answer, buffers } of model.get("_ahead")) keep(ask, withPictures(unpacked(answer, buffers)));
  };
  source.row = (kind, ask) => {
    const whole = { kind, ...ask };
    return kept.get(key(whole)) ?? keep(whole, send(whole).then(withPictures));
  };
  source.work = (kind, ask, told) => send({ kind, ...ask }, told);
  source.stop = kind => model.send({ asks: [{ kind: "stop", of: kind }] });
  source.close = () => {
    model.off("msg:custom", hear);
    model.off("comm_live_update", live);
  };
  source.read();
  return source;
}
