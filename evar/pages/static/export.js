// The table as it is shown, as CSV, Markdown or LaTeX.
"use strict";
const exporting = (() => {
  const formula = /^\s*[=+\-@]/;

  function csv(rows) {
    const field = (text) => {
      const safe = formula.test(text) && !Number.isFinite(Number(text)) ? `'${text}` : text;
      return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    return rows.map((row) => row.map(field).join(",") + "\n").join("");
  }

  function markdown(rows) {
    const cell = (text) =>
      text.replace(/[\r\n]+/g, " ").replaceAll("&", "&amp;").replaceAll("<", "&lt;")
        .replaceAll(">", "&gt;").replace(/[\\|*`_[\]]/g, "\\$&");
    const line = (row) => `| ${row.map(cell).join(" | ")} |\n`;
    const [head, ...body] = rows;
    const rule = `|${head.map((_, i) => (i ? "---:" : "---")).join("|")}|\n`;
    return line(head) + rule + body.map(line).join("");
  }

  const marks = { "†": "\\dagger", "‡": "\\ddagger", "§": "\\mathsection", "*": "*" };

  function texCell(cell) {
    if (!cell) return "";
    let text = cell.text;
    if (cell.best) text = `\\textbf{${text}}`;
    else if (cell.rank === 1) text = `\\underline{${text}}`;
    if (cell.marks) text += `$^{${[...cell.marks].map((mark) => marks[mark]).join("")}}$`;
    return cell.interval ? `${text} {\\footnotesize ${cell.interval.replace("±", "$\\pm$")}}` : text;
  }

  function latex(head, rows, caption) {
    return [
      "% needs \\usepackage{booktabs}",
      "\\begin{table}",
      "\\centering",
      `\\caption{${caption}}`,
      `\\begin{tabular}{l${"r".repeat(head.length - 1)}}`,
      "\\toprule",
      `${head.join(" & ")} \\\\`,
      "\\midrule",
      ...rows.map((row) => `${row.join(" & ")} \\\\`),
      "\\bottomrule",
      "\\end{tabular}",
      "\\end{table}",
      "",
    ].join("\n");
  }

  return { csv, markdown, latex, texCell };
})();
