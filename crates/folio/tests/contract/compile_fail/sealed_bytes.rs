//! E0594
//! Nobody writes sealed bytes, nor those that were promised to stay.
use folio::*;

pub fn sealed(mut sealed: Sealed) {
    sealed[0] = 1; //~
}

pub fn stable(mut stable: Stable) {
    stable[0] = 1; //~
}
