//! `folio cat`: prints a part of a file, by checked copies out of a map of it.

use crate::failure::{Failure, Kind, say};
use crate::name;
use crate::output::{Destination, Output};
use crate::paging;
use crate::progress::Progress;
use crate::size;
use crate::source::{CHUNK, Engine, Mapper, Source};
use folio::PagerStats;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::process::ExitCode;

/// The end of the help.
pub(crate) const EXAMPLES: &str = "\
Examples:
  folio cat notes.txt                                 print a file
  folio cat disk.img --offset 1M --length 512         512 bytes from the second mebibyte on
  folio cat disk.img --offset 0x1be --length 66 | xxd
  folio cat big.log --offset 1.5G -o tail.log         to a file, which appears when it is complete
  folio cat -v /proc/cpuinfo                          cannot be mapped, so it is read; -v says so
  folio cat disk.img --engine pager --budget 16M -v   by folio's own pager, in 16 MiB; -v counts
  xz -dc dump.xz | folio cat - --offset 4K            what comes through a pipe

Exit codes:
  0  all was printed, or the reader of the output went away (`| head`)
  1  the source could not be opened or read, the offset is past its end, the output failed,
     or the pager cannot run here (`folio doctor` says why)
  2  bad usage
  3  the source was truncated, or its bytes could not be supplied, while they were printed;
     with the pager also: it was changed";

/// Print a file, or a part of it, from memory-mapped pages
///
/// A file has the length of the moment at which it was opened: bytes that grow later are not
/// printed, and a truncation meanwhile is an error that names the offset, after all bytes before
/// it. A source that cannot be mapped (pipes, /proc, /sys, character devices, standard input) is
/// read instead.
///
/// The kernel's engine takes the pages from the kernel's cache. The pager's engine reads them into
/// memory of its own, within a budget and around that cache where the file system allows
/// (O_DIRECT); a file that changes meanwhile is an error to it.
///
/// N is a number of bytes: 4096, 4K, 4KiB, 1.5M or 0x1000; K, M, G, T, P and E are powers of 1024.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A file, a device or a pipe; `-` is standard input, from where it stands
    #[arg(value_name = "SOURCE")]
    source: PathBuf,

    /// Start at this byte. A place past the end is an error, and so is the end itself, except for
    /// `--length 0` and offset 0
    #[arg(long, value_name = "N", value_parser = size::parse, allow_negative_numbers = true)]
    offset: Option<u64>,

    /// Print so many bytes, or as many as there are
    #[arg(long, value_name = "N", value_parser = size::parse, allow_negative_numbers = true)]
    length: Option<u64>,

    /// The engine that maps a file or block device: kernel, or folio's own pager; auto is the
    /// kernel. A source that cannot be mapped is read
    #[arg(long, value_enum, default_value_t, value_name = "ENGINE")]
    engine: Mapping,

    /// Bytes of memory for the pager's pages, 4M at least; 64M by default. Only with `--engine
    /// pager`
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    budget: Option<u64>,

    /// Write to FILE, made or replaced when all was printed and not before. It keeps its owner,
    /// mode, ACL and extended attributes, and holes stay holes. A pipe, a device or a descriptor
    /// (/dev/stderr, /dev/fd/3) is written to directly
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Say on stderr how the bytes were got, why a source was read instead of mapped, and the
    /// pager's counts
    #[arg(short, long)]
    verbose: bool,

    /// End with one JSON object on stderr, for errors too
    #[arg(long)]
    json: bool,
}

/// The engines to choose from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Mapping {
    /// The kernel; a source that it cannot map is read. The pager is never chosen unasked
    #[default]
    Auto,
    /// mmap(2), through the page cache
    Kernel,
    /// folio's own pager (userfaultfd), within a budget
    Pager,
}

impl Args {
    fn mapper(&self) -> Result<Mapper, Failure> {
        match (self.engine, self.budget) {
            (Mapping::Pager, budget) => Ok(Mapper::Pager(budget)),
            (_, None) => Ok(Mapper::Kernel),
            (_, Some(_)) => {
                let message = "--budget is for the pager: the kernel's page cache has none";
                let remedy = "add `--engine pager`, or leave --budget out";
                Err(Failure::new(Kind::Usage, message).remedy(remedy))
            }
        }
    }
}

/// The work done, for the last words.
#[derive(Debug, Default)]
struct Report {
    source: String,
    engine: Option<Engine>,
    bytes: u64,
    closed: bool,
    seconds: f64,
    stats: Option<PagerStats>,
}

/// Runs the command, and says on stderr what there is to say.
pub(crate) fn run(args: &Args) -> ExitCode {
    let mut report = Report { source: name::shown(&args.source), ..Report::default() };
    let result = copy(args, &mut report);
    match (&result, args.json) {
        (Ok(()), true) => say(format_args!("{}", Value::Object(report.json(args)))),
        (Err(failure), true) => say(format_args!("{}", failure.json(report.json(args)))),
        (Ok(()), false) if args.verbose => say(format_args!("{}", report.words(args))),
        (Ok(()), false) => {}
        (Err(failure), false) => say(format_args!("{failure}")),
    }
    if let (Some(stats), true, false) = (&report.stats, args.verbose, args.json) {
        say(format_args!("{}", paging::words(stats)));
    }
    result.map_or_else(|failure| failure.exit_code(), |()| ExitCode::SUCCESS)
}

fn copy(args: &Args, report: &mut Report) -> Result<(), Failure> {
    let mapper = args.mapper()?;
    let destination = Destination::of(args.output.as_deref())?;
    let source = Source::open(&args.source, mapper)?;
    report.engine = Some(source.engine.clone());
    if let (Engine::Read { reason }, true, false) = (&source.engine, args.verbose, args.json) {
        say(format_args!("folio: {}: cannot be mapped ({reason}); read instead", source.name));
    }
    let mut bytes = source.bytes(args.offset, args.length)?;
    let mut output = Output::open(destination, &source)?;
    if let (true, Some(data)) = (output.takes_holes(), bytes.data()) {
        output.needs(data)?;
    }
    let mut progress = Progress::new(!args.json && !output.may_be_seen(), bytes.left());
    let mut buffer = vec![0; bytes.left().map_or(CHUNK, |left| left.min(CHUNK as u64) as usize)];
    let result = loop {
        if output.takes_holes() {
            let skipped = output.skip(bytes.skip_hole());
            progress.set(output.written);
            if let Err(failure) = skipped {
                break Err(failure);
            }
        }
        let (count, failure) = bytes.next(&mut buffer);
        let result = output.write(&buffer[..count]);
        progress.set(output.written);
        if let Err(failure) = result {
            break Err(failure);
        }
        // Nobody reads any more, so nobody misses what was lost.
        if output.closed {
            break Ok(());
        }
        if let Some(failure) = failure {
            break Err(failure);
        }
        if count == 0 {
            break Ok(());
        }
    };
    progress.clear();
    report.stats = source.paging.as_ref().and_then(paging::Paging::stats);
    (report.bytes, report.closed) = (output.written, output.closed);
    let result = result.and_then(|()| output.finish());
    report.seconds = progress.elapsed().as_secs_f64();
    result
}

impl Report {
    fn json(&self, args: &Args) -> Map<String, Value> {
        let mut fields = Map::new();
        name::insert(&mut fields, "source", &args.source);
        fields.insert("offset".into(), args.offset.unwrap_or(0).into());
        fields.insert("length".into(), args.length.into());
        fields.insert("bytes".into(), self.bytes.into());
        match &self.engine {
            Some(Engine::Map { .. }) => {
                fields.insert("engine".into(), "map".into());
            }
            Some(Engine::Pager { .. }) => {
                fields.insert("engine".into(), "pager".into());
            }
            Some(Engine::Read { reason }) => {
                fields.insert("engine".into(), "read".into());
                fields.insert("reason".into(), reason.as_str().into());
            }
            None => {
                fields.insert("engine".into(), Value::Null);
            }
        }
        if let Some(stats) = &self.stats {
            fields.insert("pager".into(), paging::json(stats));
        }
        if self.closed {
            fields.insert("output_closed".into(), true.into());
        }
        fields
    }

    fn words(&self, args: &Args) -> String {
        let Self { source, bytes, seconds, .. } = self;
        let how = match self.engine {
            Some(Engine::Map { size }) => format!("mapped by the kernel; the file has {size}"),
            Some(Engine::Pager { size }) => format!("mapped by the pager; the file has {size}"),
            _ => "read".to_owned(),
        };
        let closed = if self.closed { "; then the output's reader went away" } else { "" };
        let offset = args.offset.unwrap_or(0);
        format!(
            "folio: {source}: {bytes} bytes from offset {offset} ({how}), in {seconds:.3} s{closed}"
        )
    }
}
