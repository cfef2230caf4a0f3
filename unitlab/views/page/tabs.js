// Tabs below the fold, built when they are first opened; a tab hears of changes only while it is open.
function tabsView(app, tabs) {
  const { $, state, set, on } = app, heads = $("tab-heads"), built = new Map(), missed = new Map();
  function open(title) {
    const changed = missed.get(title) ?? new Set();
    missed.delete(title);
    if (!built.has(title)) {
      const panel = h.div({ role: "tabpanel", class: "ul-tab", "data-title": title, "aria-label": title });
      $("tab-panels").append(panel);
      built.set(title, { panel, show: tabs[title](app, panel) });
    }
    Promise.resolve().then(() => built.get(title).show(changed)).catch(error => app.say(error.message, error.command));
  }
  heads.append(...Object.keys(tabs).map((title, at) => button(title, () => set({ tab: state.tab === title ? "" : title }),
    { role: "tab", "data-title": title, "aria-selected": "false", tabindex: at ? -1 : 0 })));
  roving(heads, "[role=tab]", { across: true });
  on(["tab"], () => {
    for (const head of heads.children) head.setAttribute("aria-selected", String(head.dataset.title === state.tab));
    if (state.tab) open(state.tab);
    for (const [title, { panel }] of built) panel.hidden = title !== state.tab;
  });
  for (const [title, { keys }] of Object.entries(tabs)) on(keys, changed => {
    missed.set(title, new Set([...(missed.get(title) ?? []), ...changed]));
    if (state.tab === title) open(title);
  });
}
