//! `folio doctor` as a stranger runs it: on this machine, and with features masked.

#[path = "../../folio/tests/common/skip.rs"]
mod skip;

use serde_json::Value;
use skip::skip;
use std::process::{Command, Output, Stdio};

fn doctor(args: &[&str], features: &str, delivery: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
    command
        .arg("doctor")
        .args(args)
        .env("FOLIO_FEATURES", features)
        .env("FOLIO_DELIVERY", delivery);
    command.stdin(Stdio::null()).output().expect("folio starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    assert_eq!(err(output), "");
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

fn capability<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["capabilities"].as_array().expect("a list");
    all.iter().find(|capability| capability["name"] == name).expect("the capability")
}

#[test]
fn json_and_the_exit_code_say_whether_the_pager_runs() {
    let output = doctor(&["--json"], "", "");
    let report = json(&output);
    let runs = report["runs"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!runs)));
    assert_eq!(report["error"].is_string(), !runs, "{report}");
    assert_eq!(report["page_size"], rustix::param::page_size());
    for name in ["delivery", "written_delivery", "shared_delivery"] {
        let delivery = report[name].as_str().unwrap();
        assert!(["syscall", "device", "user-mode-only", "signal"].contains(&delivery), "{report}");
    }
    for capability in report["capabilities"].as_array().unwrap() {
        // An unused feature has a reason and a second way.
        assert_eq!(capability["why_not"].is_string(), capability["used"] == false, "{capability}");
        assert_eq!(
            capability["second_way"].is_string(),
            capability["used"] == false,
            "{capability}"
        );
    }
}

#[test]
fn words_have_a_line_for_each_feature() {
    let output = doctor(&[], "", "");
    let (text, report) = (out(&output), json(&doctor(&["--json"], "", "")));
    for capability in report["capabilities"].as_array().unwrap() {
        let name = capability["name"].as_str().unwrap();
        let state = if capability["used"] == true { "used" } else { "not used" };
        assert!(text.contains(&format!("  {name:<10} {state:<9} ")), "{name}: {text}");
    }
    for words in
        ["pager", "kernel", "page size", "faults, read-only", "file I/O", "vm.max_map_count"]
    {
        assert!(text.lines().any(|line| line.contains(words)), "{words}: {text}");
    }
}

#[test]
fn a_masked_feature_is_named_with_its_second_way() {
    let report = json(&doctor(&["--json"], "-move,-io_uring", ""));
    let ring = capability(&report, "io_uring");
    assert_eq!((&ring["used"], &report["io_engine"]), (&false.into(), &"threads".into()));
    let whole = json(&doctor(&["--json"], "", ""));
    for name in ["move", "io_uring"] {
        let masked = capability(&report, name);
        assert_eq!(masked["used"], false);
        assert!(masked["second_way"].is_string());
        if capability(&whole, name)["available"] == true {
            assert!(masked["why_not"].as_str().unwrap().contains("FOLIO_FEATURES"), "{masked}");
        } else {
            skip(&format!("{name} is not there to be masked"));
        }
    }
    let text = out(&doctor(&[], "-move", ""));
    let at =
        text.lines().position(|line| line.starts_with("  move       not used  ")).expect("a line");
    assert!(text.lines().nth(at + 1).unwrap().contains("why: "), "{text}");
    assert!(text.lines().nth(at + 2).unwrap().contains("instead: "), "{text}");
}

#[test]
fn a_delivery_that_is_not_the_best_says_why_not_the_better_ones() {
    let output = doctor(&["--json"], "", "signal");
    let report = json(&output);
    assert_eq!(report["delivery"], "signal");
    let names: Vec<_> =
        report["better"].as_array().unwrap().iter().map(|better| &better["name"]).collect();
    assert_eq!(names, ["syscall", "device", "user-mode-only"]);
    for better in report["better"].as_array().unwrap() {
        assert!(!better["why_not"].as_str().unwrap().is_empty(), "{better}");
    }
    // The exit code says whether the pager runs this way.
    assert_eq!(output.status.code(), Some(i32::from(report["runs"] == false)));
    let text = out(&doctor(&[], "", "signal"));
    let says = |line: &str| line.trim_start().starts_with("not ") && line.contains(" syscall: ");
    assert!(text.lines().any(says), "{text}");
}

#[test]
fn an_unknown_word_is_an_error_that_lists_the_known_ones() {
    let output = doctor(&[], "", "nonsense");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    for words in
        ["FOLIO_DELIVERY", "nonsense", "uffd", "syscall", "device", "user-mode-only", "signal"]
    {
        assert!(err(&output).contains(words), "{words}: {}", err(&output));
    }
    let output = doctor(&["--json"], "-mov", "");
    assert_eq!(output.status.code(), Some(2));
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON on stderr");
    assert_eq!(error["kind"], "usage");
    assert!(error["error"].as_str().unwrap().contains("-move"), "{error}");
}

#[test]
fn help_names_the_environment_and_the_exit_codes() {
    for args in [&["doctor", "-h"][..], &["doctor", "--help"], &["help", "doctor"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_folio")).args(args).output().unwrap();
        assert!(output.status.success());
        for words in ["FOLIO_FEATURES", "FOLIO_DELIVERY", "Exit codes:", "--json"] {
            assert!(out(&output).contains(words), "{words}: {}", out(&output));
        }
    }
}
