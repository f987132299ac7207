//! Rules for comments and documents.

use crate::Violation;
use crate::tree::{File, Tree};
use regex::Regex;

const COLUMNS: usize = 100;

pub(crate) fn long_lines(tree: &Tree) -> Vec<Violation> {
    matching(tree, |line| line.chars().count() > COLUMNS)
}

/// Words that stand for an older name, or that mean nothing to a kernel engineer.
const BANNED: &[&str] = &[
    // The names of earlier types and modules, where they name nothing else.
    r"mailboxe?s?",
    r"inbox(es)?",
    r"see_off",
    r"hand_over",
    r"party_bell",
    r"doze[sd]?",
    r"dozing",
    r"bell ?cords?",
    r"leftovers?",
    r"byte_lock",
    r"attempt_kind",
    // Words of the house before.
    r"unless told",
    r"[Ww]hoever",
    r"is to be told",
    r"tells? of",
    r"for ever and ever",
    r"utils?",
    r"managers?",
];

pub(crate) fn banned_words(tree: &Tree) -> Vec<Violation> {
    let banned = Regex::new(&format!(r"\b({})\b", BANNED.join("|"))).expect("the banned words");
    matching(tree, |line| banned.is_match(line))
}

/// Clauses that use "what" or "who" as a noun. A question may begin with either.
pub(crate) fn headless_clauses(tree: &Tree) -> Vec<Violation> {
    let opened = r"(^[ /!*>-]*|[.;:,(—…] |\b(and|or|but|if|of|to|that|by|for|with|from|on|in|into|than|then|as|is|are|be|at|over|behind|beside|not|only|about|say|says|see|sees|know|knows|keep|keeps|all|before|after|while|when|until|where|what) )";
    let headless = Regex::new(&format!(r"{opened}([Ww]hat|[Ww]ho)\b")).expect("clauses");
    // "the caller, who": a relative clause belongs to the noun before it. "What to do" is no
    // clause.
    let relative = Regex::new(r", who\b|\b[Ww]hat to\b").expect("relative clauses");
    matching(tree, |line| {
        let without = relative.replace_all(line, "");
        !line.contains('?') && headless.is_match(&without)
    })
}

fn matching(tree: &Tree, is_bad: impl Fn(&str) -> bool) -> Vec<Violation> {
    let files = tree.files.iter().filter(|file| is_ours(file));
    files
        .flat_map(|file| {
            let bad = file.prose().into_iter().filter(|(_, line)| is_bad(line));
            bad.map(|(line, text)| Violation {
                path: file.path.clone(),
                line,
                text: text.trim().into(),
            })
            .collect::<Vec<_>>()
        })
        .collect()
}

/// The rules quote the words that they ban.
fn is_ours(file: &File) -> bool {
    !file.path.starts_with("crates/folio/tests/tidy/") && file.path != "CONTRIBUTING.md"
}
