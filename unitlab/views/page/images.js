// The images that activate a unit most.
function imagesView(app) {
  const { $, state, on, source } = app, holder = $("pictures"), canvases = [];

  on(["top", "image_style", "image_strength"], () => {
    const { study } = source, { top, image_style } = state;
    if (!top) return;
    $("opacity").firstChild.textContent = image_style === "heat" ? "Opacity " : "Threshold ";
    $("strength").disabled = image_style === "none";
    const none = top.missing ?? (top.tiles.length ? "" : `No image activates unit ${top.unit}.`);
    if (none) return fill(holder, h.p({ class: "ul-note-message" }, none));
    fill(holder, top.tiles.map((each, rank) => {
      const name = study.classes[each.k], number = brief(each.activation), title = `${name} · ${each.id}`;
      const words = `${top.category ? "in the class" : "top"} image ${rank + 1}: ${name}, activation ${number}, ${each.id}`;
      const shown = { ...each, canvas: canvases[rank] ??= h.canvas() }, opens = app.opensImage(each.id, each.image);
      return tile({ title, ...opens }, shown, words, state, h.figcaption(h.span({ dir: "auto" }, name), " ", number));
    }));
    $("opacity").title = image_style === "outline" ? top.threshold ?? "" : ""; // and below, where height is not dear
    $("note").textContent = joined(" ", top.note, !source.live && $("opacity").title);
  });
}
