// Pictures with captions, a page at a time; bars and progress that the tabs share.
function pagedTiles(app, onPage, tile) {
  let images = [], turn = null;
  const heading = h.h3(), grid = h.div({ class: "ul-tiles" }),
    pages = pager("The images before these", "The next images", draw);
  const holder = h.div(controls(heading, pages.holder), grid);
  async function draw() {
    const some = [...pages.part(images, onPage)], start = pages.at * onPage, mine = turn = {};
    pages.holder.hidden = images.length <= onPage;
    if (!some.length) return grid.replaceChildren();
    const found = await app.source.row("tiles", { images: some });
    if (mine !== turn) return;
    grid.replaceChildren(...some.map((image, at) => {
      const { lines, small, kind, words } = tile(start + at), id = found.ids[at], told = `${words}, ${id}`;
      return h.figure({ class: kind, title: told, "data-image": id, ...app.pressable({ image }) },
        found.sheet ? picture(found.sheet, at, told) : h.p({ class: "ul-no-picture" }, id),
        h.figcaption(lines.map(line => h.span({ dir: "auto" }, line)), small));
    }));
  }
  const fill = (title, some) => {
    heading.textContent = title;
    images = some;
    pages.at = 0;
    holder.hidden = !some.length;
    return draw();
  };
  return { holder, fill };
}

// names, or where they go, above a bar as long as its count
function countBars(rows, words) {
  const most = Math.max(1, ...rows.map(row => row[1]));
  const chain = names => names.map((name, at) => [at ? " → " : "", h.bdi(shortened(name, Math.floor(52 / names.length)))]);
  return h.table({ class: "ul-count-bars", "aria-label": words }, h.tbody(rows.map(([names, number]) =>
    h.tr({ title: names.join(" → ") }, h.th({ scope: "row" }, chain(names).flat(), amount(number / most, "damage")),
      h.td(number.toLocaleString("en"))))));
}

// a piece of work beside the kernel: what is done, a bar, and Stop
function workView(app) {
  const bar = h.progress(), label = h.span({ role: "status" }), stop = button("Stop", () => app.source.stop(running));
  const holder = h.span({ class: "ul-work", hidden: true }, label, bar, stop), said = h.div();
  let id = 0, running = "";
  const show = (kind, ...words) => { said.className = kind; said.replaceChildren(...words); };
  const fail = error => show("ul-note-message", error.message, ...(error.command ? [" ", h.code(error.command)] : []));
  async function run(words, kind, ask, told = () => {}) {
    label.textContent = words;
    bar.removeAttribute("value");
    show("");
    holder.hidden = false;
    const answer = app.source.work(kind, ask, (done, of, part) => { bar.max = of; bar.value = done; told(part); });
    [id, running] = [answer.id, kind];
    try { return await answer; } catch (error) {
      if (answer.id === id) fail(error);
      return null;
    } finally { if (answer.id === id) holder.hidden = true; }
  }
  return { holder, said, run, fail, stop: () => !holder.hidden && app.source.stop(running), clear: () => show("") };
}
const codeBlock = words =>
  h.div({ class: "ul-code-block" }, h.code({ class: "ul-code" }, words), button("Copy", event => copy(words, event.target)));
function copy(words, pressed) {
  const field = h.textarea();
  field.value = words;
  pressed.parentNode.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  pressed.focus();
  pressed.textContent = "Copied";
}
