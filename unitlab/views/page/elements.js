// Elements of the page, and how numbers are written. What comes from a study only ever becomes text or an attribute.
const OF_SVG = new Set(["svg", "g", "rect", "line", "circle", "text", "path", "title", "clipPath"]);

function element(name, attributes = {}, ...inside) {
  const made = OF_SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside.flat().filter(part => part !== null && part !== undefined && part !== false));
  return made;
}
const button = (label, press, attributes = {}) => element("button", { type: "button", onclick: press, ...attributes }, label);
const bold = words => element("b", {}, element("bdi", {}, words));

const finite = value => value !== null && value !== undefined && Number.isFinite(value);
const minus = words => words.replace("-", "−");
const text = (value, digits = 1) => finite(value) ? minus(value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1")) : "–";
const brief = value => finite(value) ? minus(String(Number(value.toPrecision(3)))) : "–";
const quotient = value => !finite(value) ? "–" : value < 0.001 ? "< 0.001" : String(Number(value.toPrecision(2)));
const probability = (name, value) => !finite(value) ? `${name} is being computed` : value < 0.001 ? `${name} < 0.001` : `${name} = ${quotient(value)}`;
const count = (number, one, several = one + "s") => `${number.toLocaleString("en")} ${number === 1 ? one : several}`;
const shortened = (name, most) => name.length > most ? name.slice(0, most - 1) + "…" : name;

function ticks(from, to, about) {
  const raw = (to - from) / Math.max(1, about), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(some => some * power >= raw) * power, out = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + 1e-9 * step; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

// one stop for the tab key in a group of elements; arrows go on among them
function roving(holder, selector, { across = false } = {}) {
  const all = () => [...holder.querySelectorAll(selector)];
  holder.addEventListener("keydown", event => {
    const by = { ArrowDown: 1, ArrowUp: -1, ...(across ? { ArrowRight: 1, ArrowLeft: -1 } : {}) }[event.key];
    const some = all(), at = some.indexOf(event.target.closest(selector));
    if (event.altKey || at < 0) return;
    const next = event.key === "Home" ? some[0] : event.key === "End" ? some.at(-1) : by ? some[at + by] : null;
    if (!next) return;
    event.preventDefault();
    for (const each of some) each.tabIndex = each === next ? 0 : -1;
    next.focus();
  });
}
function download(name, kind, content) {
  const link = element("a", { href: URL.createObjectURL(new Blob([content], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
