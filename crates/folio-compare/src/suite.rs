//! The parts of suites: groups of sides that take turns, and pairs of them that are reported.

use crate::Options;
use crate::measure::{Part, Rounds, Side};
use crate::report::{Line, Report};

/// The name of folio's own sides in the table.
pub(crate) const FOLIO: &str = "folio";

/// A result to report: two sides of a group, and the goal.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) case: &'static str,
    pub(crate) folio: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) goal: Option<f64>,
    pub(crate) note: Option<String>,
    /// The peer is the cheapest of these sides, if there are any.
    pub(crate) among: &'static [&'static str],
    /// Sides whose own ratio to the peer is reported, and their names there.
    pub(crate) beside: Vec<(&'static str, &'static str)>,
    /// The case as which the tails of both sides are reported, if they are.
    pub(crate) tail: Option<&'static str>,
}

impl Pair {
    pub(crate) const fn new(case: &'static str, peer: &'static str) -> Self {
        Self {
            case,
            folio: FOLIO,
            peer,
            goal: None,
            note: None,
            among: &[],
            beside: Vec::new(),
            tail: None,
        }
    }

    pub(crate) const fn goal(mut self, ratio: f64) -> Self {
        self.goal = Some(ratio);
        self
    }

    pub(crate) fn beside(mut self, side: &'static str, called: &'static str) -> Self {
        self.beside.push((side, called));
        self
    }

    /// Adds how the peer is used, or another help to understand the line.
    pub(crate) fn note(mut self, text: &str) -> Self {
        self.note = Some(text.to_owned());
        self
    }

    pub(crate) const fn tail(mut self, case: &'static str) -> Self {
        self.tail = Some(case);
        self
    }

    pub(crate) const fn among(mut self, sides: &'static [&'static str]) -> Self {
        self.among = sides;
        self
    }
}

/// Sides that take turns, and the report on them.
pub(crate) struct Group<'a> {
    pub(crate) sides: Vec<Side<'a>>,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) unit: &'static str,
    /// By side: its note at the end.
    pub(crate) notes: Vec<(&'static str, Note<'a>)>,
}

type Note<'a> = Box<dyn Fn() -> Option<String> + 'a>;

impl<'a> Group<'a> {
    pub(crate) const fn new(unit: &'static str) -> Self {
        Self { sides: Vec::new(), pairs: Vec::new(), unit, notes: Vec::new() }
    }

    pub(crate) fn of(sides: Vec<Side<'a>>, pairs: Vec<Pair>, unit: &'static str) -> Self {
        Self { sides, pairs, unit, notes: Vec::new() }
    }

    /// Reports the pairs that are wanted.
    pub(crate) fn report(&self, rounds: &Rounds, options: &Options, report: &mut Report) {
        for pair in self.pairs.iter().filter(|pair| options.wants(pair.case)) {
            let best = rounds.cheapest(pair.among);
            let peer = best.unwrap_or(pair.peer);
            let mut notes: Vec<String> = pair.note.clone().into_iter().collect();
            if best.is_some() {
                let costs: Vec<String> = pair
                    .among
                    .iter()
                    .map(|side| format!("{side} {:.2}", rounds.cost(side)))
                    .collect();
                notes.push(format!("the best of {}", costs.join(", ")));
            }
            notes.extend(pair.beside.iter().map(|(side, called)| {
                format!("{called} is at {:.3} of {}", rounds.compare(side, peer).ratio, pair.peer)
            }));
            for (side, note) in self.notes.iter().filter(|(side, _)| *side == pair.folio) {
                notes.extend(note().map(|note| format!("{side}: {note}")));
            }
            report.line(&Line {
                case: pair.case,
                peer: pair.peer,
                unit: self.unit,
                goal: pair.goal,
                notes: &notes,
                found: rounds.compare(pair.folio, peer),
            });
            if let Some(case) = pair.tail {
                let found = rounds.compare_part(pair.folio, peer, Part::Tail);
                report.line(&Line {
                    case,
                    peer: pair.peer,
                    unit: self.unit,
                    goal: None,
                    notes: &[],
                    found,
                });
            }
        }
    }
}
