// Pictures with captions, a page at a time; bars and progress that the tabs share.
function pagedTiles(app, onPage, tile) {
  let images = [], page = 0, turn = null;
  const heading = element("h3"), where = element("span"), grid = element("div", { class: "ul-tiles" });
  const back = button("◀", () => go(-1), { "aria-label": "The images before these" }), on = button("▶", () => go(1), { "aria-label": "The next images" });
  const pager = element("span", { class: "ul-pager" }, back, where, on);
  const holder = element("div", {}, element("div", { class: "ul-controls" }, heading, pager), grid);
  const go = by => { page += by; draw(); };
  async function draw() {
    const start = page * onPage, some = images.slice(start, start + onPage), mine = turn = {};
    pager.hidden = images.length <= onPage;
    back.disabled = page === 0;
    on.disabled = start + onPage >= images.length;
    where.textContent = `${start + 1}–${start + some.length} of ${images.length}`;
    if (!some.length) return grid.replaceChildren();
    const found = await app.source.row("tiles", { images: [...some] });
    if (mine !== turn) return;
    grid.replaceChildren(...[...some].map((image, at) => {
      const { lines, small, kind, words } = tile(start + at), id = found.ids[at], told = `${words}, ${id}`;
      const shown = found.sheet ? picture(found.sheet, at, told) : element("p", { class: "ul-no-picture" }, id);
      return element("figure", { class: kind, title: told, "data-image": id, ...app.pressable({ image }) }, shown, element("figcaption", {}, lines.map(line => element("span", { dir: "auto" }, line)), small));
    }));
  }
  return { holder, fill: (title, some) => { heading.textContent = title; images = some; page = 0; holder.hidden = !some.length; return draw(); } };
}

// names, or where they go, above a bar as long as its count
function countBars(rows, words) {
  const most = Math.max(1, ...rows.map(row => row[1]));
  return element("table", { class: "ul-count-bars", "aria-label": words }, element("tbody", {}, rows.map(([names, number]) => element("tr", { title: names.join(" → ") },
    element("th", { scope: "row" }, names.map((name, at) => [at ? " → " : "", element("bdi", {}, shortened(name, Math.floor(52 / names.length)))]).flat(), element("svg", { height: 7, "aria-hidden": true }, element("rect", { class: "damage", height: 6, width: `${100 * number / most}%` }))),
    element("td", {}, number.toLocaleString("en"))))));
}

// a piece of work beside the kernel: what is done, a bar, and Stop
function workView(app) {
  const bar = element("progress"), label = element("span", { role: "status" }), stop = button("Stop", () => app.source.stop(running));
  const holder = element("span", { class: "ul-work", hidden: true }, label, bar, stop), said = element("div");
  let id = 0, running = "";
  const fail = error => { said.className = "ul-note-message"; said.replaceChildren(error.message, ...(error.command ? [" ", element("code", {}, error.command)] : [])); };
  async function run(words, kind, ask) {
    label.textContent = words;
    bar.removeAttribute("value");
    said.replaceChildren();
    said.className = "";
    holder.hidden = false;
    const answer = app.source.work(kind, ask, (done, of) => { bar.max = of; bar.value = done; });
    [id, running] = [answer.id, kind];
    try { return await answer; } catch (error) { if (answer.id === id) fail(error); return null; } finally { if (answer.id === id) holder.hidden = true; }
  }
  return { holder, said, run, fail, stop: () => !holder.hidden && app.source.stop(running), clear: () => { said.replaceChildren(); said.className = ""; } };
}
const codeBlock = words => element("div", { class: "ul-code-block" }, element("code", { class: "ul-code" }, words), button("Copy", event => navigatorCopy(words, event.target)));
function navigatorCopy(words, pressed) {
  const field = element("textarea", {});
  field.value = words;
  pressed.parentNode.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  pressed.focus();
  pressed.textContent = "Copied";
}
