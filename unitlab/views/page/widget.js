// The explorer in a notebook: the linked views over traits of a widget.
const TRAITS = [...PLACE, "unit", "category", "group", "x", "y", "color", "line", "image_style", "image_strength"];
const TRY = "Try an image", TABS = {
  "Lost and won": movedTab, "Class": categoryTab, "Group": groupTab, "Made of": accuraciesTab, "Compare": compareTab,
  "Wall": wallTab, [TRY]: tryTab, "Definitions": definitionsTab, "Take away": takeAwayTab,
};

function explorer(model, root) {
  const source = liveSource(model), told = () => Object.fromEntries(TRAITS.map(name => [name, model.get(name)]));
  const columns = [...USUAL_COLUMNS, "class_selectivity"], top_of = model.get("category") ? "class" : "all";
  const app = linkedViews(root, source, { ...told(), columns, top_of }), { $, state, set, on } = app;
  let gone = false, hands = null;

  // what the page chooses goes to the kernel in one message; what the kernel says is drawn, and not said back
  function tell(values) {
    for (const [name, value] of values) model.set(name, value);
    if (values.length) model.save_changes();
  }
  app.flush = () => {
    const own = TRAITS.filter(name => !PLACE.includes(name) && !same(state[name], model.get(name)));
    if (!gone) tell(own.map(name => [name, state[name]]));
  };
  on(TRAITS, () => queueMicrotask(app.flush));
  // another layer is there when the kernel has opened it
  app.go = values => sameIn(PLACE, { ...state, ...values }, state) ? set(values) : tell(Object.entries(values));
  function hear() {
    const held = model.get("_held");
    if (!held) return;
    const other = held.key !== source.study.key, more = model.get("_measured").complete !== source.study.complete;
    const chosen = told();
    if (other || more) { source.read(); hands = null; }
    if (!other) for (const name of PLACE) delete chosen[name];
    const emptied = other ? { held: state.held + 1, filter: "", kept: null, row: null, top: null, byClass: null } : {};
    set({ ...chosen, ...emptied, measured: state.measured + (other || more) });
    app.offer("study", held.studies);
    app.offer("layer", Object.keys(held.layers));
    app.offer("ablation", held.layers[state.layer] ?? [state.ablation]);
    if (!gone) app.say(...model.get("_said"));
  }
  model.on("change", hear);
  model.on("change:_tried", () => set({ tried: model.get("_tried"), tab: TRY, picture: null }));
  source.lost = () => {
    gone = true;
    app.say("The kernel is gone: run the cell again. What this page knows keeps working.");
    root.classList.add("ul-gone");
  };
  // whether the network is at hand; what is missing, if not
  app.atHand = () => hands ??= source.work("at_hand", {}).then(() => null, error => error);
  // what the reader may open next, asked for when all is drawn
  app.ahead = (...units) => setTimeout(() => units.filter(finite).forEach(unit => {
    source.row("unit", { unit });
    source.row("top", app.topAsk(unit));
  }));
  app.opensImage = (id, picture) =>
    ({ "data-image": id, tabindex: 0, role: "button", ...pressed(() => set({ picture, tab: TRY })) });

  on(["line", "x", "y", "category", "measured"], () =>
    state.line ? app.load("fit", "fit", { x: state.x, y: state.y, category: state.category }) : set({ fit: null }));
  on(["category"], () => { $("top-of").querySelector("[value=class]").disabled = !state.category; });
  on(["unit"], () => {
    const at = app.order.indexOf(state.unit);
    app.ahead(app.order[at + 1], app.order[at - 1]);
  });
  on(["held"], () => set({ picture: null }));
  tabsView(app, TABS);
  app.start();
  hear();
  return () => { model.off("change", hear); source.close(); };
}

// the place's own theme comes from its page; where the explorer lives, the picture that stands for it does not
document.head.append(h.style(`
  .ul-host { color-scheme: light dark; }
  :is([data-jp-theme-light="false"], [data-vscode-theme-kind]) .ul-host { color-scheme: dark; }
  :is([data-jp-theme-light="true"], [data-vscode-theme-kind*="light"]) .ul-host { color-scheme: light; }
  :is(.jp-OutputArea, .cell_container, .output_wrapper, .output):has(.ul-host) .ul-snapshot { display: none; }`));
const sheetOfStyle = new CSSStyleSheet();
sheetOfStyle.replaceSync(STYLE);
export function render({ model, el }) {
  const host = h.div({ class: "ul-host" }), tree = host.attachShadow({ mode: "open" });
  const root = h.div({ class: "ul-explorer ul-compact" });
  tree.adoptedStyleSheets = [sheetOfStyle];
  root.innerHTML = VIEWS;
  tree.append(root);
  el.append(host);
  // JupyterLab takes keys for its own commands, on their way down unless the element says no, and on their way up
  const others = event => event.ctrlKey || event.metaKey || (event.shiftKey && event.key === "Enter");
  const keys = event => event.composedPath().includes(host)
    && host.toggleAttribute("data-lm-suppress-shortcuts", !others(event));
  window.addEventListener("keydown", keys, true);
  host.addEventListener("keydown", event => others(event) || event.stopPropagation());
  const close = explorer(model, root);
  return () => { window.removeEventListener("keydown", keys, true); close(); };
}
