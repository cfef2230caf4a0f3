// Tabs below the fold, built when they are first opened; a tab hears of changes only while it is open.
function tabsView(app, tabs) {
  const { $, state, set, on } = app, heads = $("tab-heads"), built = {}, missed = {};
  function build(title) {
    const panel = h.div({ role: "tabpanel", class: "ul-tab", "data-title": title, "aria-label": title });
    $("tab-panels").append(panel);
    return { panel, fresh: newest(), show: tabs[title](app, () => open(title), panel) };
  }
  // a tab gives what is in it, or keeps that itself
  function open(title) {
    const { panel, fresh, show } = built[title] ??= build(title), changed = missed[title] ?? new Set();
    delete missed[title];
    fresh(Promise.resolve(changed).then(show)).then(parts => parts && refill(panel, parts)).catch(app.fail);
  }
  heads.append(...Object.keys(tabs).map((title, at) => button(title, () => set({ tab: state.tab === title ? "" : title }),
    { role: "tab", "data-title": title, "aria-selected": "false", tabindex: at ? -1 : 0 })));
  roving(heads, "[role=tab]");
  on(["tab"], () => {
    for (const head of heads.children) head.ariaSelected = String(head.dataset.title === state.tab);
    if (state.tab) open(state.tab);
    for (const [title, { panel }] of Object.entries(built)) panel.hidden = title !== state.tab;
  });
  for (const [title, { keys }] of Object.entries(tabs)) on(keys, changed => {
    missed[title] = new Set([...missed[title] ?? [], ...changed]);
    if (state.tab === title) open(title);
  });
}
