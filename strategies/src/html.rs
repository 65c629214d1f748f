//! The report as one page that needs nothing else.

use std::fmt::Write as _;

use crate::catalog;
use crate::report::{COSTS, Report};

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --safe: #2a8c4a; --unsafe: #c0392b; --odd: #b8860b }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; white-space: nowrap }
thead th { border-bottom-width: 2px }
tbody th { font-weight: 600 } tbody th small { display: block; font-weight: 400; opacity: .7; white-space: normal }
.safe { color: var(--safe) } .unsafe { color: var(--unsafe); font-weight: 600 }
.differs { background: var(--odd); color: #fff; font-weight: 600 } .none { opacity: .5 }
.figures td { text-align: right; font-variant-numeric: tabular-nums }
";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a `String` cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Strategies under faults</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Strategies under faults</h1>\n<p>{}</p>\n",
        escape(&report.sentence())
    );
    verdicts(&mut page, report);
    costs(&mut page, report);
    page.push_str("</body>\n</html>\n");
    page
}

fn verdicts(page: &mut String, report: &Report) {
    page.push_str("<div class=\"wide\"><table>\n<thead><tr><th>strategy</th>");
    for fault in &report.faults {
        let _ = write!(page, "<th>{}</th>", fault.name());
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    let all = catalog::all();
    for strategy in &report.strategies {
        let what = all.iter().find(|entry| entry.name == *strategy).map_or("", |entry| entry.what);
        let _ = write!(page, "<tr><th>{strategy}<small>{}</small></th>", escape(what));
        for line in report.of_strategy(strategy) {
            let (class, text) = (line.class(), escape(&line.text()));
            let _ = write!(page, "<td class=\"{class}\">{text}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

fn costs(page: &mut String, report: &Report) {
    let Some(rows) = report.costs() else { return };
    page.push_str(
        "<h2>Without a fault</h2>\n<div class=\"wide\"><table class=\"figures\">\n<thead><tr>",
    );
    for name in COSTS {
        let _ = write!(page, "<th>{name}</th>");
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for [strategy, figures @ ..] in &rows {
        let _ = write!(page, "<tr><th>{strategy}</th>");
        for figure in figures {
            let _ = write!(page, "<td>{}</td>", escape(figure));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
