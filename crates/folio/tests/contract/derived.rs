//! `derive(Share)` looks at the struct that there is, and not at the tokens that it was given: its
//! verdict on a type holds, whatever macros make of the struct later, and whatever the type's
//! parameters are.

use crate::compile_fail::{Compiler, control};
use std::path::PathBuf;
use std::process::Command;

/// The compiler, and the macros of `changing_macros.rs`.
struct Snippets {
    compiler: Compiler,
    macros: PathBuf,
    /// The compiler's output: `metadata`, or code; without code, the compiler does not check types
    /// with parameters.
    emit: &'static str,
    dir: tempfile::TempDir,
}

impl Snippets {
    fn new(emit: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let macros = dir.path().join("libchanging_macros.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/changing_macros.rs");
        let status = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args([
                "--edition",
                "2024",
                "--crate-type",
                "proc-macro",
                "--crate-name",
                "changing_macros",
                source,
            ])
            .arg("-o")
            .arg(&macros)
            .status()
            .unwrap();
        assert!(status.success(), "the macros do not compile");
        Self { compiler: Compiler::new(&control()), macros, emit, dir }
    }

    /// Compiles a source.
    fn compile(&self, source: &str) -> Result<(), String> {
        let path = self.dir.path().join("snippet.rs");
        std::fs::write(&path, format!("#![forbid(unsafe_code)]\n{HEAD}{source}")).unwrap();
        let macros = format!("changing_macros={}", self.macros.display());
        self.compiler.compile_with(&path, &["--emit", self.emit, "--extern", &macros])
    }

    /// The source compiles, or not for this reason.
    #[track_caller]
    fn refuses(&self, source: &str, reason: &str) {
        let said = self.compile(source).expect_err(source);
        assert!(said.contains(reason), "{source}\n{said}");
    }
}

const HEAD: &str = "
    #![allow(unused_imports, dead_code)]
    use changing_macros::{also, one_of, replaced};
    use folio::shm::{InPlace, Mutex, Plain, Segment, SegmentOptions, Share, field};
    use std::sync::atomic::AtomicU64;
    fn is_shared<T: Share>() -> folio::Result<()> { Segment::<T>::anonymous().map(drop) }
    fn is_plain<T: Plain>() {}
    fn is_in_place<T: InPlace>() {}
";

#[test]
fn a_field_that_an_attribute_macro_changes_is_judged_as_it_is() {
    let snippets = Snippets::new("metadata");
    let with = |attribute: &str, body: &str| {
        format!(
            "#[derive(Share)] #[{attribute}] #[repr(C)] pub struct S {{ {body} }}\npub fn f() {{ is_shared::<S>().unwrap() }}"
        )
    };
    snippets
        .compile(&with("replaced(word => u64)", "pub a: word"))
        .expect_err("a type that does not exist");
    snippets.compile(&with("replaced(pub a => pub(crate) a)", "pub a: u64")).unwrap();
    // Of other types the bounds of `Plain` and `InPlace` know nothing: no claim is made for them.
    snippets.refuses(&with("replaced(u64 => AtomicU64)", "pub a: u64"), "is not plain data");
    snippets.refuses(&with("replaced(u64 => i64)", "pub a: u64"), "is not made of atomics alone");
    snippets
        .compile(
            &with("replaced(u64 => i64)", "pub a: u64")
                .replace("#[derive(Share)] ", "")
                .replace("#[repr(C)]", "#[derive(Share)] #[repr(C)]"),
        )
        .unwrap();
    for wild in ["&'static u8", "*const u8", "bool", "usize", "Option<Box<u8>>"] {
        snippets.refuses(
            &with(&format!("replaced(u64 => {wild})"), "pub a: u64"),
            "cannot lie in memory",
        );
    }
    // More fields, fewer, none of a name that only a `Deref` has.
    snippets.refuses(
        &with("replaced(u64 => u64 , pub b : & 'static u8)", "pub a: u64"),
        "pattern requires",
    );
    let deref = "impl std::ops::Deref for S { type Target = T; fn deref(&self) -> &T { &self.t } }
        #[derive(Share)] #[repr(C)] pub struct T { pub a: u64 }";
    snippets.refuses(&format!("{}{deref}", with("replaced(a : u64 => t : T)", "pub a: u64")), "E0");
    snippets.refuses(&with("replaced(struct => union)", "pub a: u64"), "E0");
}

#[test]
fn a_layout_that_an_attribute_macro_changes_is_judged_as_it_is() {
    let snippets = Snippets::new("metadata");
    let with = |attribute: &str, body: &str| {
        format!("#[derive(Share)] #[{attribute}] #[repr(C)] pub struct S {{ {body} }}")
    };
    snippets.compile(&with("also(derive(Debug))", "pub a: [u8; 8], pub b: u64")).unwrap();
    snippets.refuses(&with("also(repr(packed))", "pub a: [u8; 8], pub b: u64"), "E0793");
    snippets.refuses(&with("also(repr(packed(4)))", "pub a: u64"), "E0793");
    snippets.refuses(&with("also(repr(align(16)))", "pub a: u64"), "padding");
    snippets.refuses(
        &with("replaced(repr(C) => allow())", "pub a: u8, pub b: [u8; 3], pub c: u32"),
        "needs #[repr(C)]",
    );
}

#[test]
fn a_type_macro_that_expands_differently_each_time_says_nothing_of_a_field() {
    let snippets = Snippets::new("metadata");
    // A claim about the struct, a type of field that the claim allows, and one that it forbids.
    let claims = [
        ("is_shared::<S>().unwrap()", "u64", "&'static u8"),
        ("is_in_place::<S>()", "AtomicU64", "u64"),
        ("is_plain::<S>()", "u64", "NotPlain"),
    ];
    // Plain data is `Copy`: a type that is shared, `Copy`, and no plain data must be made.
    let not_plain = "mod made { #[derive(folio::shm::Share)] #[repr(C)] pub struct NotPlain { pub a: std::sync::atomic::AtomicU64 } }
        pub use made::NotPlain; impl Clone for S { fn clone(&self) -> Self { todo!() } }";
    let mut refused = 0;
    for (claim, right, wrong) in claims {
        for which in 1..=8 {
            let source = format!(
                "{not_plain}
                #[derive(Share)] #[repr(C)] pub struct S {{ pub a: one_of!({which}, {right}, {wrong}) }}
                pub fn f() {{ {claim} }}"
            );
            if snippets.compile(&source).is_err() {
                refused += 1;
                continue;
            }
            // The claim holds.
            let real = format!("{source}\npub fn g(s: S) -> {right} {{ s.a }}");
            snippets.compile(&real).unwrap_or_else(|said| panic!("{source}\n{said}"));
        }
    }
    assert!(refused > 0, "the macro was never asked in a place that matters");
}

#[test]
fn padding_of_a_struct_with_parameters_is_refused_on_every_way_in() {
    let snippets = Snippets::new("obj");
    let pad = "#[derive(Clone, Copy, Share)] #[repr(C)] pub struct Pad<A, B> { pub a: A, pub b: B }
        #[derive(Share)] #[repr(C)] pub struct Holds<T> { pub inner: T }
        pub fn cast<A, B>(_: &[u64; 2]) -> &Pad<A, B> { todo!() }";
    let ways = [
        "Segment::<Pad<A, B>>::anonymous().unwrap();",
        "Segment::<[Pad<A, B>]>::open(\"x\").unwrap();",
        "Segment::<Mutex<Pad<A, B>>>::anonymous().unwrap();",
        "Segment::<Holds<[Pad<A, B>; 2]>>::anonymous().unwrap();",
        // No type of the segment's own leads here: a safe cast of its bytes may.
        "Segment::<[u64; 2]>::anonymous().unwrap().field(cast::<A, B>).load().unwrap();",
        "Segment::<[u64; 2]>::anonymous().unwrap().shared_ref().field(cast::<A, B>).load().unwrap();",
        "Segment::<Mutex<[u64; 2]>>::anonymous().unwrap().shared_ref().lock().unwrap().clean().unwrap()
            .field(cast::<A, B>).load().unwrap();",
    ];
    for way in ways {
        let with = |a: &str, b: &str| {
            let way = way.replace('A', a).replace('B', b);
            format!("{pad}\npub fn f() {{ {way} }}")
        };
        snippets.compile(&with("u64", "u64")).unwrap();
        snippets.refuses(&with("u8", "u64"), "the struct has padding");
        snippets.refuses(&with("u64", "u8"), "the struct has padding");
    }
}

#[test]
fn names_of_the_caller_mean_nothing_to_the_derive() {
    let snippets = Snippets::new("metadata");
    // A `folio`, a `core` and a `u64` of the caller's own, and constants that are called as the
    // generated code's variables.
    let shadows = "
        #[allow(non_camel_case_types)]
        mod shadows {
            mod folio {}
            mod core {}
            mod std {}
            trait Copy {}
            struct Box; struct Option;
            macro_rules! assert { ($($any:tt)*) => { compile_error!(\"taken\"); } }
            pub struct u64(&'static u8);
            #[derive(::folio::shm::Share)] #[repr(C)] pub struct Ours { pub r#type: u32, pub whole: [u8; 4] }
            #[derive(::folio::shm::Share)] #[repr(transparent)] pub struct Tuple(pub ::std::sync::atomic::AtomicU32);
        }";
    snippets.compile(shadows).unwrap();
    snippets.refuses(
        &shadows.replace("pub r#type: u32, pub whole: [u8; 4]", "pub wild: u64"),
        "cannot lie in memory",
    );
    // A crate that goes by folio's name can offer functions of its own for the derive's, but no
    // fingerprint of a type of its own.
    let posing = "
        extern crate folio as real;
        extern crate self as folio;
        pub mod shm {
            pub use real::shm::{InPlace, Plain, Share, Fingerprint};
            pub mod derive {
                pub use std::{marker::Copy, mem::offset_of};
                pub use real::shm::derive::Parameter;
                pub struct Field<S>(S);
                impl<S> Field<S> { pub const fn new<F>(_: &str, _: usize, _: fn(&S) -> &F) -> u8 { 0 } }
            }
        }
        #[derive(real::shm::Share)] #[repr(C)] pub struct Wild { pub a: &'static u8 }";
    snippets.refuses(posing, "E0308");
}
