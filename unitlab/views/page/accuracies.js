// What drops are made of: recall, precision, balanced accuracy and margin of the classes that are shown as bars.
const ACCURACIES = [
  ["drop", 1, "recall, points"], ["precision", 1, "precision, points"], ["balanced", 1, "balanced accuracy, points"],
  ["margin", 2, "margin, logits"], ["own", 2, "specific margin, logits"], ["own_q", 0, "its q"],
];
function accuraciesTab({ state, source }, panel) {
  const body = h.tbody({ id: "accuracies" }), heads = ["class", ...ACCURACIES.map(([, , head]) => head)];
  panel.append(h.table({ class: "ul-accuracies" }, h.thead(h.tr(heads.map(head => h.th({ scope: "col" }, head)))), body),
    note("Drops, positive = damage. Recall is the class accuracy above. Where it falls and precision rises, the network ",
      "says the class less often: a shifted decision more than a loss of what tells the class."));
  return () => {
    const { row, shown } = state;
    if (!row?.precision) return body.replaceChildren(h.tr(h.td({ colspan: 7 }, "being computed …")));
    const cell = (k, [name, digits]) => !row[name] ? "–" : digits ? text(row[name][k], digits) : quotient(row[name][k]);
    body.replaceChildren(...shown.map(k => h.tr(h.th({ scope: "row", dir: "auto" }, source.study.classes[k]),
      ACCURACIES.map(each => h.td(cell(k, each))))));
  };
}
accuraciesTab.keys = ["row", "category", "shown"];
