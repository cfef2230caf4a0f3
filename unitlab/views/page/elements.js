// Elements of the page, and how numbers are written. What comes from a study only ever becomes text or an attribute.
const OF_SVG = new Set(["svg", "g", "rect", "line", "circle", "text", "path", "title", "clipPath"]);

function element(name, attributes = {}, ...inside) {
  const made = OF_SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  fill(made, ...inside);
  return made;
}
// what an element has inside; nothing stands for what is null, undefined or false
const fill = (holder, ...inside) => holder.replaceChildren(...inside.flat(3).filter(part => part || part === 0));
// the same anew; where the keys were, they stay
function refill(holder, ...inside) {
  const stops = () => [...holder.querySelectorAll("button, input, [tabindex]")];
  const at = stops().findIndex(each => each.matches(":focus"));
  fill(holder, ...inside);
  stops()[at]?.focus();
}
// h.td({ class: "name" }, …) or h.td(…)
const h = new Proxy({}, {
  get: (_, name) => (...given) => element(name, given[0]?.constructor === Object ? given.shift() : {}, ...given),
});
const button = (label, press, attributes = {}) => h.button({ type: "button", onclick: press, ...attributes }, label);
const bold = words => h.b(h.bdi(words));
const controls = (...parts) => h.div({ class: "ul-controls" }, ...parts);
const sentence = (...words) => h.p({ class: "ul-sentence" }, ...words);
const note = (...words) => h.p({ class: "ul-note" }, ...words);
// what keys do: `ways` says what each stands for
const keyed = (ways, call, alt = false) => event => {
  const way = event.altKey === alt && ways[event.key];
  if (!way) return;
  event.preventDefault();
  call(way, event);
};
// what a press opens, by pointer or key
const pressed = call => ({ onclick: call, onkeydown: keyed({ Enter: true, " ": true }, call) });

const finite = Number.isFinite;
const clamped = (value, low, high) => Math.min(Math.max(value, low), high);
const whole = number => number.toLocaleString("en");
const minus = words => words.replace("-", "−");
const text = (value, digits = 1) => // halves away from zero, single precision or not, as in the kernel's sentences
  finite(value) ? minus((1.000001 * value).toFixed(digits).replace(/^-(0\.?0*)$/, "$1")) : "–";
const brief = value => finite(value) ? minus(String(Number(value.toPrecision(3)))) : "–";
const quotient = value => !finite(value) ? "–" : value < 0.001 ? "< 0.001" : String(Number(value.toPrecision(2)));
const probability = (name, value) =>
  finite(value) ? `${name} ${value < 0.001 ? "" : "= "}${quotient(value)}` : `${name} is being computed`;
const limited = (value, low, high) => finite(low) ? `${text(value)} (${text(low)} to ${text(high)})` : text(value);
const count = (number, one) => `${whole(number)} ${one}${number === 1 ? "" : "s"}`;
const shortened = (name, most) => name.length > most ? name.slice(0, most - 1) + "…" : name;
const toggled = (list, one) => list.includes(one) ? list.filter(each => each !== one) : [...list, one];
const joined = (between, ...parts) => parts.filter(Boolean).join(between);
const descending = (values, some = [...values.keys()]) =>
  some.filter(i => finite(values[i])).sort((a, b) => values[b] - values[a] || a - b);

// one stop for the tab key in a group of elements; arrows go on among them
function roving(holder, selector) {
  const ways = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  holder.addEventListener("keydown", keyed(ways, (by, { target }) => {
    const some = [...holder.querySelectorAll(selector)], at = some.indexOf(target.closest(selector)) + by;
    const next = some[clamped(at, 0, some.length - 1)];
    for (const each of some) each.tabIndex = each === next ? 0 : -1;
    next.focus();
  }));
}
// ◀ 1–12 of 40 ▶
function pager(before, after, draw, ids = []) {
  const go = by => () => { pages.at += by; draw(); }, where = h.span({ id: ids[1] });
  const back = button("◀", go(-1), { "aria-label": before, id: ids[0] });
  const on = button("▶", go(1), { "aria-label": after, id: ids[2] });
  const pages = { at: 0, where, holder: h.span({ class: "ul-pager" }, back, " ", where, " ", on) };
  pages.part = (list, perPage) => {
    const last = Math.max(0, Math.ceil(list.length / perPage) - 1);
    pages.at = clamped(pages.at, 0, last);
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
