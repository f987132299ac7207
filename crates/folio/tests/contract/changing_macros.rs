//! Macros that change a struct after a derive has seen it. `derived` compiles this file as a crate
//! of its own.

extern crate proc_macro;

use proc_macro::TokenStream;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `#[replaced(one => other)]`: the struct with other words.
#[proc_macro_attribute]
pub fn replaced(words: TokenStream, item: TokenStream) -> TokenStream {
    let words = words.to_string();
    let (one, other) = words.split_once("=>").expect("one => other");
    let item = item.to_string();
    assert!(item.contains(one.trim()), "there is no `{one}` in {item}");
    item.replace(one.trim(), other.trim()).parse().unwrap()
}

/// `#[also(attribute)]`: the struct with one more attribute.
#[proc_macro_attribute]
pub fn also(attribute: TokenStream, item: TokenStream) -> TokenStream {
    format!("#[{attribute}] {item}").parse().unwrap()
}

/// `one_of!(3, this, that)`: `that` at the third use, and `this` at all others.
#[proc_macro]
pub fn one_of(words: TokenStream) -> TokenStream {
    static USES: AtomicUsize = AtomicUsize::new(0);
    let words = words.to_string();
    let parts: Vec<_> = words.splitn(3, ',').map(str::trim).collect();
    let which = USES.fetch_add(1, Ordering::Relaxed) + 1;
    parts[if parts[0] == which.to_string() { 2 } else { 1 }].parse().unwrap()
}
