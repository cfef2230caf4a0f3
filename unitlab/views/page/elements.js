// Elements of the page, and how numbers are written. What comes from a study only ever becomes text or an attribute.
const OF_SVG = new Set(["svg", "g", "rect", "line", "circle", "text", "path", "title", "clipPath"]);

function element(name, attributes = {}, ...inside) {
  const made = OF_SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside.flat(2).filter(part => part !== null && part !== undefined && part !== false));
  return made;
}
// h.td({ class: "name" }, …) or h.td(…)
const h = new Proxy({}, {
  get: (_, name) => (...given) => element(name, given[0]?.constructor === Object ? given.shift() : {}, ...given),
});
const button = (label, press, attributes = {}) => h.button({ type: "button", onclick: press, ...attributes }, label);
const bold = words => h.b(h.bdi(words));
const controls = (...parts) => h.div({ class: "ul-controls" }, ...parts);
const note = (...words) => h.p({ class: "ul-note" }, ...words);
const options = (names, label = name => name) => names.map(name => h.option({ value: name }, label(name)));
// what a press opens, by pointer or key
function pressed(call) {
  const key = event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    call();
  };
  return { onclick: call, onkeydown: key };
}

const finite = Number.isFinite;
const whole = number => number.toLocaleString("en");
const minus = words => words.replace("-", "−");
const text = (value, digits = 1) => finite(value) ? minus(value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1")) : "–";
const brief = value => finite(value) ? minus(String(Number(value.toPrecision(3)))) : "–";
const quotient = value => !finite(value) ? "–" : value < 0.001 ? "< 0.001" : String(Number(value.toPrecision(2)));
function probability(name, value) {
  if (!finite(value)) return `${name} is being computed`;
  return value < 0.001 ? `${name} < 0.001` : `${name} = ${quotient(value)}`;
}
const limited = (value, low, high) => finite(low) ? `${text(value)} (${text(low)} to ${text(high)})` : text(value);
const count = (number, one) => `${whole(number)} ${one}${number === 1 ? "" : "s"}`;
const shortened = (name, most) => name.length > most ? name.slice(0, most - 1) + "…" : name;
const descending = (values, some = [...values.keys()]) =>
  some.filter(i => finite(values[i])).sort((a, b) => values[b] - values[a] || a - b);

// one stop for the tab key in a group of elements; arrows go on among them
function roving(holder, selector) {
  holder.addEventListener("keydown", event => {
    const some = [...holder.querySelectorAll(selector)], at = some.indexOf(event.target.closest(selector));
    const [before, after] = [some[at - 1], some[at + 1]], ends = { Home: some[0], End: some.at(-1) };
    const next = { ...ends, ArrowDown: after, ArrowRight: after, ArrowUp: before, ArrowLeft: before }[event.key];
    if (event.altKey || at < 0 || !next) return;
    event.preventDefault();
    for (const each of some) each.tabIndex = each === next ? 0 : -1;
    next.focus();
  });
}
// ◀ 1–12 of 40 ▶
function pager(before, after, draw, ids = []) {
  const go = by => () => { pages.at += by; draw(); }, where = h.span({ id: ids[1] });
  const back = button("◀", go(-1), { "aria-label": before, id: ids[0] });
  const on = button("▶", go(1), { "aria-label": after, id: ids[2] });
  const pages = { at: 0, where, holder: h.span({ class: "ul-pager" }, back, " ", where, " ", on) };
  // what of a list is on the page
  pages.part = (list, perPage) => {
    const last = Math.max(0, Math.ceil(list.length / perPage) - 1);
    pages.at = Math.min(Math.max(0, pages.at), last);
    back.disabled = pages.at === 0;
    on.disabled = pages.at === last;
    const start = pages.at * perPage, some = list.slice(start, start + perPage);
    where.textContent = `${start + 1}–${start + some.length} of ${whole(list.length)}`;
    return some;
  };
  return pages;
}
// the answer to the newest question; who waits for an older one waits for ever
function newest() {
  let last = null;
  return question => new Promise((done, failed) => {
    last = question;
    Promise.resolve(question).then(row => last === question && done(row), error => last === question && failed(error));
  });
}
// from where a pointer went down: every move of it, and the end
function dragged(down, holder, move, end) {
  holder.setPointerCapture(down.pointerId);
  holder.addEventListener("pointermove", move);
  holder.addEventListener("pointerup", up => {
    holder.removeEventListener("pointermove", move);
    end(up);
  }, { once: true });
}
function download(name, kind, content) {
  const link = h.a({ href: URL.createObjectURL(new Blob([content], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
