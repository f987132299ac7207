//! The output: a table for people, or one JSON object a line.

use crate::measure::Comparison;

/// How the results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Table,
    Json,
}

/// Prints each result as it comes.
#[derive(Debug)]
pub(crate) struct Report {
    suite: &'static str,
    style: Style,
    started: bool,
}

/// One line of the report.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) case: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) unit: &'a str,
    /// The ratio that the case must not pass.
    pub(crate) goal: Option<f64>,
    pub(crate) notes: &'a [String],
    pub(crate) found: Comparison,
}

impl Report {
    pub(crate) fn new(suite: &'static str, style: Style) -> Self {
        Self { suite, style, started: false }
    }

    /// A line of explanation, for people only.
    pub(crate) fn explain(&self, text: &str) {
        if self.style == Style::Table {
            println!("{text}");
        }
    }

    /// A remark that belongs to no line: a case that is left out, and why.
    pub(crate) fn remark(&self, text: &str) {
        match self.style {
            Style::Table => println!("{text}"),
            Style::Json => eprintln!("{text}"),
        }
    }

    fn object(&self, line: &Line<'_>) -> serde_json::Value {
        let Comparison { folio, peer, ratio, .. } = line.found;
        serde_json::json!({
            "suite": self.suite, "case": line.case, "peer": line.peer, "folio": rounded(folio),
            "peer_value": rounded(peer), "unit": line.unit, "ratio": rounded(ratio),
        })
    }

    pub(crate) fn line(&mut self, line: &Line<'_>) {
        let Comparison { folio, peer, ratio, spread, rounds } = line.found;
        match self.style {
            Style::Json => {
                println!("{}", self.object(line));
                // Beside the objects, whose fields are fixed.
                for note in line.notes {
                    eprintln!("{}: {note}", line.case);
                }
            }
            Style::Table => {
                if !std::mem::replace(&mut self.started, true) {
                    println!(
                        "{:<17} {:<15} {:>10} {:>10} {:<9} {:>7} {:>7} {:>6}  {:<8} rounds",
                        "case", "peer", "folio", "peer", "unit", "ratio", "±", "goal", "goal met"
                    );
                }
                let goal = line.goal.map_or_else(|| "-".to_owned(), |goal| format!("{goal:.2}"));
                let met = match line.goal {
                    Some(goal) if ratio <= goal => "yes",
                    Some(_) => "NO",
                    None => "-",
                };
                println!(
                    "{:<17} {:<15} {folio:>10.2} {peer:>10.2} {:<9} {ratio:>7.3} {spread:>7.3} {goal:>6}  {met:<8} {rounds}",
                    line.case, line.peer, line.unit
                );
                for note in line.notes {
                    println!("{:17} {note}", "");
                }
            }
        }
    }
}

/// Four digits behind the point: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::{Line, Report, Style};
    use crate::measure::Comparison;

    #[test]
    fn an_object_has_these_fields_and_no_other() {
        let found = Comparison { folio: 1.5, peer: 2.0, ratio: 0.75, spread: 0.01, rounds: 9 };
        let line = Line {
            case: "read-64",
            peer: "pread",
            unit: "ns/read",
            goal: Some(0.1),
            notes: &["slow".to_owned()],
            found,
        };
        let want = serde_json::json!({
            "suite": "kernel", "case": "read-64", "peer": "pread", "folio": 1.5, "peer_value": 2.0,
            "unit": "ns/read", "ratio": 0.75,
        });
        assert_eq!(Report::new("kernel", Style::Json).object(&line), want);
    }
}
