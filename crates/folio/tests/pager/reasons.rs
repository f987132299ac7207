//! Errors of the pager name the place where the refused choice was made.

use folio::{Errno, Pager};

#[test]
fn a_delivery_that_nobody_knows_is_the_builders_and_not_the_environments() {
    let error = Pager::builder().delivery("bogus").build().unwrap_err();
    let text = error.to_string();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(text.contains("`bogus`") && text.contains("PagerBuilder::delivery"), "{text}");
    assert!(!text.contains("FOLIO_DELIVERY"), "{text}");
}

#[test]
fn a_feature_that_nobody_knows_is_the_builders_and_not_the_environments() {
    let text = Pager::builder().features("-bogus").build().unwrap_err().to_string();
    assert!(text.contains("`-bogus`") && text.contains("PagerBuilder::features"), "{text}");
    assert!(!text.contains("FOLIO_FEATURES"), "{text}");
}

#[test]
fn a_working_set_that_is_no_text_is_einval_and_not_a_failed_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    let error = folio::WorkingSet::load(&path).unwrap_err();
    assert!(error.errno() == Errno::INVAL && error.to_string().contains("no text"), "{error}");
    let error = folio::WorkingSet::load("with\0nul").unwrap_err();
    assert!(error.errno() == Errno::INVAL && error.to_string().contains("NUL"), "{error}");
    let error = folio::WorkingSet::load(dir.path().join("none")).unwrap_err();
    assert!(error.errno() == Errno::NOENT && error.to_string().contains("no such file"), "{error}");
}
