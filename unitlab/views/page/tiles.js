// Pictures with captions, a page at a time; progress and code that the tabs share.
function tile(attributes, { sheet, place, map, canvas }, words, looks, ...below) {
  const shown = sheet ? picture(sheet, place, words, map, looks, canvas) : h.p({ class: "ul-no-picture" }, words);
  return h.figure(attributes, shown, ...below);
}
async function pagedTiles(app, title, images, onPage, about) {
  const grid = h.div({ class: "ul-tiles" }), fresh = newest();
  const pages = pager("The images before these", "The next images", () => draw().catch(app.fail));
  async function draw() {
    const some = [...pages.part(images, onPage)], start = pages.at * onPage;
    const { ids, sheet } = await fresh(app.source.row("tiles", { images: some }));
    fill(grid, some.map((image, place) => {
      const { lines, small, kind, words } = about(start + place), id = ids[place], title = `${words}, ${id}`;
      return tile({ class: kind, title, ...app.opensImage(id, image) }, { sheet, place }, sheet ? title : id, {},
        h.figcaption(lines.map(line => h.span({ dir: "auto" }, line)), small));
    }));
  }
  if (!images.length) return null;
  await draw();
  return h.div(controls(h.h3(title), images.length > onPage && pages.holder), grid);
}

// a piece of work beside the kernel: what is done, a bar, and Stop
function workView(app) {
  const bar = h.progress(), label = h.span({ role: "status" }), said = h.div();
  let running = null;
  const stop = () => running && app.source.stop(running.kind);
  const holder = h.span({ class: "ul-work", hidden: true }, label, bar, button("Stop", stop));
  const show = (kind, ...words) => { said.className = kind; fill(said, words); };
  const fail = ({ message, command }) => show("ul-note-message", message, command && [" ", h.code(command)]);
  async function run(words, kind, ask, told = () => {}) {
    const mine = running = { kind };
    label.textContent = words;
    bar.removeAttribute("value");
    show("");
    holder.hidden = false;
    try {
      return await app.source.work(kind, ask, (done, of, part) => { bar.max = of; bar.value = done; told(part); });
    } catch (error) {
      if (mine === running) fail(error);
      return null;
    } finally { if (mine === running) { holder.hidden = true; running = null; } }
  }
  return { holder, said, run, fail, stop, clear: () => show("") };
}
// such work of which results are kept: its button is there where none is known and the network is at hand
function keptWork(app, again, key, asked, label, attributes, lacking = "") {
  const work = workView(app), known = new Map(), start = button(label, run, attributes);
  async function run() {
    const mine = key();
    start.hidden = true;
    const answer = await work.run(...asked());
    if (answer) known.set(mine, answer);
    answer || key() !== mine ? again() : offer();
  }
  async function offer() {
    start.hidden = true;
    if (known.has(key()) || !work.holder.hidden) return;
    const missing = await app.atHand();
    if (missing) work.fail({ ...missing, message: lacking + missing.message });
    else start.hidden = known.has(key());
  }
  return { ...work, run, offer, start, found: () => known.get(key()) };
}
function codeBlock(words) {
  const code = h.code({ class: "ul-code" }, words);
  return h.div({ class: "ul-code-block" }, code, button("Copy", ({ target }) => {
    getSelection().selectAllChildren(code);
    if (document.execCommand("copy")) target.textContent = "Copied";
  }));
}
