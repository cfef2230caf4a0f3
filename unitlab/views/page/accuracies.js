// What drops are made of: recall, precision, balanced accuracy and margin of the classes that are shown as bars.
function accuraciesTab(app, panel) {
  const { state, source } = app, body = element("tbody", { id: "accuracies" }), heads = ["class", "recall, points", "precision, points", "balanced accuracy, points", "margin, logits", "specific margin, logits", "its q"];
  panel.append(element("table", { class: "ul-accuracies" }, element("thead", {}, element("tr", {}, heads.map(head => element("th", { scope: "col" }, head)))), body),
    element("p", { class: "ul-note" }, "Drops, positive = damage. Recall is the class accuracy above. Where it falls and precision rises, the network says the class less often: a shifted decision more than a loss of what tells the class."));
  return () => {
    const row = state.row;
    if (!row?.precision) return body.replaceChildren(element("tr", {}, element("td", { colspan: 7 }, "being computed …")));
    body.replaceChildren(...app.shownClasses().map(k => element("tr", {}, element("th", { scope: "row", dir: "auto" }, source.study.classes[k]),
      [["drop", 1], ["precision", 1], ["balanced", 1], ["margin", 2], ["own", 2]].map(([name, digits]) => element("td", {}, row[name] ? text(row[name][k], digits) : "–")), element("td", {}, row.own_q ? quotient(row.own_q[k]) : "–"))));
  };
}
accuraciesTab.keys = ["row", "category", "shown"];
