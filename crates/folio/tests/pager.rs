//! The contract of the pager engine: one test a rule, with real files, real faults and a real thread that serves them.

#[path = "pager/maps.rs"]
mod maps;
