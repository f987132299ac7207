//! `folio shm`: which segments of shared memory there are, and taking those away that nobody uses.

use crate::failure::{Failure, Kind, say};
use crate::name::{insert, shown};
use crate::stdout::print;
use clap::Subcommand;
use folio::shm::{self, Lifetime, Role, SegmentEntry, SegmentState};
use indicatif::BinaryBytes;
use serde_json::{Map, Value, json};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::process::ExitCode;

const HELP: &str = "\
Examples:
  folio shm ls                  what there is, and who has it open
  folio shm ls --json | jq .    the same for programs
  folio shm rm board            take a name away that nobody has open
  folio shm gc --dry-run        what killed programs left
  folio shm gc                  take it away

Environment:
  FOLIO_SHM_DIR  where segments lie, if not in /dev/shm

Exit codes:
  0  it was done, or there was nothing to do
  1  the directory could not be read, a segment is in use, or could not be removed
  2  bad usage";

/// List and remove named shared memory
///
/// A segment is the file folio.NAME in /dev/shm. Nothing is removed that a living process has open,
/// whatever its state: the kernel keeps the record, by a lock that ends with the process.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all segments: size, type, state, and the processes that have them open
    ///
    /// "in use": processes have it open. "idle": no process has, and it is to be kept. "stale":
    /// no process has, and it should have gone with its last user, which was killed or might not
    /// remove it. "damaged": it is no segment that can be used. "closed": this user may not look.
    ///
    /// A type "notifier of NAME" is no segment, but the FIFO by which processes of other network
    /// namespaces (containers) notify a process of messages in NAME. Names that start with
    /// ".folio." are those of files.
    ///
    /// With --json each object has: name, role ("segment", "unfinished" for a file on its way to
    /// becoming one, "notifier"), of (the segment of a notifier, or null), path, size (bytes),
    /// kind, type, lifetime, state, why (of "damaged" and "closed"), users (pids), owner (uid),
    /// mode (octal). A name that is no UTF-8 is also given in bytes: name_bytes, path_bytes,
    /// of_bytes.
    #[command(after_help = HELP)]
    Ls {
        /// One JSON array on standard output
        #[arg(long)]
        json: bool,
    },
    /// Remove segments by name, if nobody has them open
    #[command(after_help = HELP)]
    Rm {
        /// Names, as `folio shm ls` shows them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<OsString>,
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
    },
    /// Remove what killed processes left
    #[command(after_help = HELP)]
    Gc {
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command, and says on stderr what there is to say.
pub(crate) fn run(args: &Args) -> ExitCode {
    let (result, json) = match &args.command {
        Command::Ls { json } => (list(*json), *json),
        Command::Rm { names, json } => (remove(names, *json), *json),
        Command::Gc { dry_run, json } => (collect(*dry_run, *json), *json),
    };
    result.unwrap_or_else(|failure| {
        if json {
            say(format_args!("{}", failure.json(Map::new())));
        } else {
            say(format_args!("{failure}"));
        }
        failure.exit_code()
    })
}

fn refused(error: &folio::Error) -> Failure {
    match error.call_error() {
        Some(refusal) => {
            let object = shown(refusal.subject().object());
            let rule = shown(refusal.rule());
            // The kernel's own word goes first: some errors have no more than that to say.
            let said =
                refusal.by_kernel().then(|| format!("{}: ", shown(error.errno().to_string())));
            let message = format!("{object}: {}{rule}", said.unwrap_or_default());
            Failure::new(Kind::Source, message).remedy(shown(refusal.remedy()))
        }
        None => Failure::new(Kind::Source, shown(error.to_string())),
    }
}

fn list(json: bool) -> Result<ExitCode, Failure> {
    let entries = shm::list().map_err(|error| refused(&error))?;
    if json {
        let all: Vec<_> = entries.iter().map(to_json).collect();
        print(&format!("{:#}\n", Value::from(all)))?;
    } else {
        print(&table(&entries))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(entries: &[SegmentEntry]) -> String {
    if entries.is_empty() {
        return format!("no segments in {}\n", shown(shm::directory()));
    }
    let head = ["NAME", "SIZE", "STATE", "USERS", "TYPE"].map(str::to_owned);
    let rows = entries.iter().map(|entry| {
        let users: Vec<_> = entry.users.iter().map(|user| user.pid.to_string()).collect();
        let state = match &entry.state {
            SegmentState::Damaged(why) | SegmentState::Closed(why) => {
                format!("{} ({})", entry.state.name(), shown(why))
            }
            state => state.name().to_owned(),
        };
        let what = match (entry.kind, &entry.type_name) {
            _ if matches!(entry.role, Role::Notifier { .. }) => segment_of(entry)
                .map_or("notifier".to_owned(), |of| format!("notifier of {}", shown(of))),
            // The contents of channels and logs are folio's own, and called after their kind.
            (_, Some(name)) => shown(name),
            _ => "-".to_owned(),
        };
        let users = if users.is_empty() { "-".to_owned() } else { users.join(",") };
        [shown(&entry.name), BinaryBytes(entry.size).to_string(), state, users, what]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for [name, size, state, users, what] in &rows {
        let [first, second, third, fourth] = widths;
        // Into memory: it cannot fail.
        let _ = writeln!(
            text,
            "{name:<first$}  {size:>second$}  {state:<third$}  {users:<fourth$}  {what}"
        );
    }
    text
}

/// The segment of a notifier FIFO, if that is known.
fn segment_of(entry: &SegmentEntry) -> Option<&OsStr> {
    match &entry.role {
        Role::Notifier { of } => of.as_deref(),
        _ => None,
    }
}

fn to_json(entry: &SegmentEntry) -> Value {
    let role = match entry.role {
        Role::Notifier { .. } => "notifier",
        Role::Unfinished => "unfinished",
        _ => "segment",
    };
    let why = match &entry.state {
        SegmentState::Damaged(why) | SegmentState::Closed(why) => Some(why),
        _ => None,
    };
    let lifetime = entry.lifetime.map(|lifetime| match lifetime {
        Lifetime::Kept => "kept",
        Lifetime::WhileUsed => "while used",
    });
    let mut fields = Map::new();
    insert(&mut fields, "name", &entry.name);
    insert(&mut fields, "path", &entry.path);
    fields.insert("of".into(), Value::Null);
    if let Some(of) = segment_of(entry) {
        insert(&mut fields, "of", of);
    }
    let rest = json!({
        "role": role,
        "size": entry.size,
        "kind": entry.kind.map(shm::SegmentKind::name),
        "type": entry.type_name,
        "lifetime": lifetime,
        "state": entry.state.name(),
        "why": why,
        "users": entry.users.iter().map(|user| user.pid).collect::<Vec<_>>(),
        "owner": entry.owner,
        "mode": format!("{:04o}", entry.mode),
    });
    fields.extend(rest.as_object().cloned().unwrap_or_default());
    Value::Object(fields)
}

fn remove(names: &[OsString], json: bool) -> Result<ExitCode, Failure> {
    let mut removed = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match shm::remove(name) {
            Ok(()) => removed.push(name.as_os_str()),
            Err(error) => failures.push((name.as_os_str(), refused(&error))),
        }
    }
    let code = failures.first().map_or(ExitCode::SUCCESS, |(_, failure)| failure.exit_code());
    if json {
        let failed: Vec<_> = failures.iter().map(|(name, failure)| failed(name, failure)).collect();
        let removed: Vec<_> = removed.into_iter().map(name_to_json).collect();
        print(&format!("{:#}\n", json!({ "removed": removed, "failed": failed })))?;
    } else {
        for (_, failure) in &failures {
            say(format_args!("{failure}"));
        }
    }
    Ok(code)
}

fn failed(name: &OsStr, failure: &Failure) -> Value {
    let mut fields = Map::new();
    insert(&mut fields, "name", name);
    failure.json(fields)
}

/// A string; the array of its bytes, if the name is no UTF-8.
fn name_to_json(name: &OsStr) -> Value {
    name.to_str().map_or_else(|| name.as_encoded_bytes().into(), Value::from)
}

fn collect(dry_run: bool, json: bool) -> Result<ExitCode, Failure> {
    let collected = shm::remove_stale(dry_run).map_err(|error| refused(&error))?;
    let failures: Vec<_> = collected
        .failed
        .iter()
        .map(|(entry, error)| (entry.name.as_os_str(), refused(error)))
        .collect();
    let code = failures.first().map_or(ExitCode::SUCCESS, |(_, failure)| failure.exit_code());
    if json {
        let removed: Vec<_> = collected.removed.iter().map(to_json).collect();
        let failed: Vec<_> = failures.iter().map(|(name, failure)| failed(name, failure)).collect();
        let report = json!({ "dry_run": dry_run, "removed": removed, "failed": failed });
        print(&format!("{report:#}\n"))?;
        return Ok(code);
    }
    let what = if dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for entry in &collected.removed {
        // Into memory: it cannot fail.
        let _ = writeln!(text, "{what} {} ({})", shown(&entry.name), BinaryBytes(entry.size));
    }
    if collected.removed.is_empty() && failures.is_empty() {
        text.push_str("nothing is left over\n");
    }
    print(&text)?;
    for (_, failure) in &failures {
        say(format_args!("{failure}"));
    }
    Ok(code)
}
