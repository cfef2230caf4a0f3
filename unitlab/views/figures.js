// Figures take on the ink of the page that they stand in, and again when its theme changes. Loaded with Bokeh.
window.unitlabFigures ??= (() => {
  const shown = new Set(), inked = new WeakSet();
  const place = id => document.querySelector(`[data-root-id="${id}"]`);

  function look(model, ink) {
    const type = model.type;
    if (type === "Figure" || type === "Plot") return { background_fill_color: null, border_fill_color: null };
    if (type.endsWith("Axis")) return { axis_line_color: ink, major_tick_line_color: ink, major_label_text_color: ink, axis_label_text_color: ink };
    if (type === "Grid") return { grid_line_color: ink, grid_line_alpha: 0.12 };
    if (type === "Title") return { text_color: ink };
    if (type === "Legend") return { label_text_color: ink, background_fill_alpha: 0 };
    if (type === "ColorBar") return { major_label_text_color: ink, title_text_color: ink, background_fill_alpha: 0 };
    if (type === "Text" && (inked.has(model) || model.text_color.value === "black")) return inked.add(model), { text_color: { value: ink } };
    // lines that a figure draws in black, such as intervals
    const color = model.line_color, plain = typeof color === "string";
    if (!inked.has(model) && (plain ? color : color?.value) !== "black") return null;
    inked.add(model);
    return { line_color: plain ? ink : { value: ink } };
  }

  function paint(id, tries = 200) {
    const here = place(id), drawn = window.Bokeh?.documents.find(one => one.get_model_by_id(id));
    if (!here || !drawn) return tries ? setTimeout(paint, 50, id, tries - 1) : shown.delete(id);
    const ink = getComputedStyle(here).color;
    for (const model of drawn.all_models) {
      const values = look(model, ink);
      if (values) model.setv(values);
    }
    return null;
  }

  // the style sheet of a theme comes a moment after its name
  const again = () => [0, 300, 1000].forEach(wait => setTimeout(() => shown.forEach(id => (place(id) ? paint(id) : shown.delete(id))), wait));
  for (const root of [document.documentElement, document.body]) new MutationObserver(again).observe(root, { attributes: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  return { show: id => { shown.add(id); paint(id); } };
})();
