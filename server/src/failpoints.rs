//! Failpoints: named places where a test lets this process die.
//!
//! Compiled with the feature `failpoints` only; without it `failpoint!` is nothing. The daemon, which
//! runs this server, has the list of names and arms them.

#[cfg(feature = "failpoints")]
macro_rules! failpoint {
    ($name:literal) => {
        fail::fail_point!($name)
    };
}

#[cfg(not(feature = "failpoints"))]
macro_rules! failpoint {
    ($name:literal) => {};
}
