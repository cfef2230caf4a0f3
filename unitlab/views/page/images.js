// The images that activate a unit most.
function imagesView(app) {
  const { $, state, on, set, source } = app, holder = $("pictures"), style = $("style"), strength = $("strength");

  function draw() {
    const { study } = source, top = state.top;
    if (!top) return;
    $("opacity").firstChild.textContent = state.image_style === "heat" ? "Opacity " : "Threshold ";
    strength.disabled = state.image_style === "none";
    style.value = state.image_style;
    strength.value = state.image_strength;
    holder.classList.remove("ul-stale");
    const none = top.missing ?? (top.tiles.length ? "" : `No image activates unit ${top.unit}.`);
    if (none) return holder.replaceChildren(h.p({ class: "ul-note-message" }, none));
    holder.replaceChildren(...top.tiles.map((tile, rank) => {
      const name = study.classes[tile.k], number = brief(tile.activation);
      const words = `${top.category ? "in the class" : "top"} image ${rank + 1}: ${name}, activation ${number}, ${tile.id}`;
      return h.figure({ title: `${name} · ${tile.id}`, "data-image": tile.id, ...app.pressable(tile) },
        picture(top.sheet, tile.place, words, tile.map, state), h.figcaption(h.span({ dir: "auto" }, name), " ", number));
    }));
    $("note").textContent = [top.note, state.image_style === "outline" && top.threshold].filter(Boolean).join(" ");
  }
  style.addEventListener("change", () => set({ image_style: style.value }));
  strength.addEventListener("input", () => set({ image_strength: Number(strength.value) }));
  on(["top", "image_style", "image_strength"], draw);
  on(["unit", "held"], () => holder.classList.add("ul-stale"));
}
