//! `folio doctor`: the features that this machine offers the pager, those in use, and the reasons
//! for the others.

use crate::failure::{Failure, say};
use crate::paging::cannot_run;
use crate::stdout::print;
use folio::source::Zeros;
use folio::{Capability, Pager, PagerReport};
use indicatif::BinaryBytes;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::process::ExitCode;

const HELP: &str = "\
Environment:
  FOLIO_FEATURES  features to leave out, each with a minus: FOLIO_FEATURES=-move,-io_uring
  FOLIO_DELIVERY  how faults are to reach the pager: uffd, syscall, device, user-mode-only or signal

Exit codes:
  0  the pager runs
  1  the pager cannot run here, or the output failed
  2  bad usage, or an unknown word in the environment";

/// Show the features that this machine offers the pager, those in use, and the reasons for the
/// others
///
/// Everything is tried, not guessed from versions: each line that is not used shows the kernel's
/// answer, or the mask, and the second way.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command, and says on stderr what there is to say.
pub(crate) fn run(args: &Args) -> ExitCode {
    match report(args) {
        Ok(code) => code,
        Err(failure) => {
            if args.json {
                say(format_args!("{}", failure.json(Map::new())));
            } else {
                say(format_args!("{failure}"));
            }
            failure.exit_code()
        }
    }
}

fn report(args: &Args) -> Result<ExitCode, Failure> {
    let report = PagerReport::now().map_err(|error| cannot_run(&error))?;
    let trial = trial();
    let text = if args.json {
        format!("{:#}\n", to_json(&report, trial.as_ref()))
    } else {
        words(&report, trial.as_ref())
    };
    print(&text)?;
    Ok(ExitCode::from(u8::from(trial.is_some())))
}

/// Why a pager does not start and serve a page, if it does not.
fn trial() -> Option<folio::Error> {
    let mut bytes = [1; 16];
    Pager::builder()
        .build()
        .and_then(|pager| pager.map(Zeros::new(4096))?.read_at(&mut bytes, 0))
        .err()
}

fn words(report: &PagerReport, trial: Option<&folio::Error>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Into memory: it cannot fail.
        let _ = writeln!(text, "{name:<20} {value}");
    };
    let limit = |bytes: Option<u64>| {
        bytes.map_or("none".to_owned(), |bytes| BinaryBytes(bytes).to_string())
    };
    line("pager", &trial.map_or("runs".to_owned(), |error| format!("cannot run: {error}")));
    line("kernel", &report.kernel);
    line("page size", &format!("{} bytes", report.page_size));
    line(
        "memory",
        &report.memory_total.map_or("unknown".to_owned(), |bytes| BinaryBytes(bytes).to_string()),
    );
    line("memory cgroup limit", &limit(report.cgroup_limit));
    line("locked memory limit", &limit(report.locked_limit));
    let areas = report.max_map_count.map_or("unknown".to_owned(), |count| count.to_string());
    line("areas (maps)", &format!("{} of {areas} (vm.max_map_count)", report.areas));
    line("huge pages", report.huge_pages.as_deref().unwrap_or("none in this kernel"));
    line("file I/O", report.io_engine);
    line("faults, read-only", report.delivery.name());
    line("faults, one writer", report.written_delivery.name());
    line("faults, shared", report.shared_delivery.name());
    for (name, why) in &report.better {
        line("  not", &format!("{name}: {why}"));
    }
    text.push_str("\nfeatures\n");
    for capability in &report.capabilities {
        feature(&mut text, capability);
    }
    text
}

fn feature(text: &mut String, capability: &Capability) {
    let Capability { name, purpose, used, .. } = capability;
    let state = if *used { "used" } else { "not used" };
    // Into memory: it cannot fail.
    let _ = writeln!(text, "  {name:<10} {state:<9} {purpose}");
    for (what, words) in
        [("why", capability.why_not.as_deref()), ("instead", capability.second_way)]
    {
        if let Some(words) = words {
            let _ = writeln!(text, "  {:<20} {what}: {words}", "");
        }
    }
}

fn to_json(report: &PagerReport, trial: Option<&folio::Error>) -> Value {
    let better: Vec<_> =
        report.better.iter().map(|(name, why)| json!({ "name": name, "why_not": why })).collect();
    let capabilities: Vec<_> = report.capabilities.iter().map(capability).collect();
    json!({
        "runs": trial.is_none(),
        "error": trial.map(ToString::to_string),
        "kernel": report.kernel,
        "page_size": report.page_size,
        "delivery": report.delivery.name(),
        "written_delivery": report.written_delivery.name(),
        "shared_delivery": report.shared_delivery.name(),
        "better": better,
        "capabilities": capabilities,
        "io_engine": report.io_engine,
        "huge_pages": report.huge_pages,
        "max_map_count": report.max_map_count,
        "areas": report.areas,
        "locked_limit": report.locked_limit,
        "cgroup_limit": report.cgroup_limit,
        "memory_total": report.memory_total,
    })
}

fn capability(capability: &Capability) -> Value {
    json!({
        "name": capability.name,
        "purpose": capability.purpose,
        "available": capability.available,
        "used": capability.used,
        "why_not": capability.why_not,
        "second_way": capability.second_way,
    })
}
