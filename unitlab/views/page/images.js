// The images that activate a unit most.
function imagesView(app) {
  const { $, state, on, set, source } = app, holder = $("pictures");

  function draw() {
    const { study } = source, top = state.top;
    if (!top) return;
    $("opacity").firstChild.textContent = state.image_style === "heat" ? "Opacity " : "Threshold ";
    $("strength").disabled = state.image_style === "none";
    $("style").value = state.image_style;
    $("strength").value = state.image_strength;
    holder.classList.remove("ul-stale");
    if (top.missing || !top.tiles.length) return holder.replaceChildren(element("p", { class: "ul-note-message" }, top.missing ?? `No image activates unit ${top.unit}.`));
    holder.replaceChildren(...top.tiles.map((tile, rank) => {
      const name = study.classes[tile.k], words = `${top.category ? "in the class" : "top"} image ${rank + 1}: ${name}, activation ${brief(tile.activation)}, ${tile.id}`;
      return element("figure", { title: `${name} · ${tile.id}`, "data-image": tile.id, ...app.pressable(tile) },
        picture(top.sheet, tile.place, words, tile.map, state.image_style, state.image_strength),
        element("figcaption", {}, element("span", { dir: "auto" }, name), " ", brief(tile.activation)));
    }));
    $("note").textContent = top.note ?? "";
  }
  $("style").addEventListener("change", () => set({ image_style: $("style").value }));
  $("strength").addEventListener("input", () => set({ image_strength: Number($("strength").value) }));
  on(["top", "image_style", "image_strength"], draw);
  on(["unit", "held"], () => holder.classList.add("ul-stale"));
}
