//! What is accepted: the versions of the suites, and the cases that fail, each with its reason.

/// The programs and their versions, as `.ci/run` installs them.
pub const TOOLS: &[(&str, &str)] = &[("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];

/// The remote knows a content by one name only (`docs/semantics.md`, section 7).
const HARD_LINKS: &str = "hard links are refused with EPERM";

/// Cases of `pjdfstest` that fail. A case that is not here and fails, and one that is here and does
/// not, fails the test.
pub const FAILING: &[(&str, &str)] = &[
    ("link::changed_ctime_success::block", HARD_LINKS),
    ("link::changed_ctime_success::char", HARD_LINKS),
    ("link::changed_ctime_success::fifo", HARD_LINKS),
    ("link::changed_ctime_success::regular", HARD_LINKS),
    ("link::changed_ctime_success::socket", HARD_LINKS),
    ("link::remove_link::block", HARD_LINKS),
    ("link::remove_link::char", HARD_LINKS),
    ("link::remove_link::fifo", HARD_LINKS),
    ("link::remove_link::regular", HARD_LINKS),
    ("link::remove_link::socket", HARD_LINKS),
    ("link::share_metadata::block", HARD_LINKS),
    ("link::share_metadata::char", HARD_LINKS),
    ("link::share_metadata::fifo", HARD_LINKS),
    ("link::share_metadata::regular", HARD_LINKS),
    ("link::share_metadata::socket", HARD_LINKS),
    ("rename::preserve_metadata::block", HARD_LINKS),
    ("rename::preserve_metadata::char", HARD_LINKS),
    ("rename::preserve_metadata::fifo", HARD_LINKS),
    ("rename::preserve_metadata::regular", HARD_LINKS),
    ("rename::preserve_metadata::socket", HARD_LINKS),
    ("rename::to_multiply_linked::block", HARD_LINKS),
    ("rename::to_multiply_linked::char", HARD_LINKS),
    ("rename::to_multiply_linked::fifo", HARD_LINKS),
    ("rename::to_multiply_linked::regular", HARD_LINKS),
    ("rename::to_multiply_linked::socket", HARD_LINKS),
    ("unlink::unchanged_ctime_failed::block", HARD_LINKS),
    ("unlink::unchanged_ctime_failed::char", HARD_LINKS),
    ("unlink::unchanged_ctime_failed::fifo", HARD_LINKS),
    ("unlink::unchanged_ctime_failed::regular", HARD_LINKS),
    ("unlink::unchanged_ctime_failed::socket", HARD_LINKS),
    ("unlink::update_ctime_success::block", HARD_LINKS),
    ("unlink::update_ctime_success::char", HARD_LINKS),
    ("unlink::update_ctime_success::fifo", HARD_LINKS),
    ("unlink::update_ctime_success::regular", HARD_LINKS),
    ("unlink::update_ctime_success::socket", HARD_LINKS),
];

/// Cases of `pjdfstest` that are skipped by the suite itself.
pub const SKIPPED: &[(&str, &str)] =
    &[("link::link_count_max", "Linux names no highest link count for file systems of users")];

/// Cases of `pjdfstest` that pass or fail as it happens.
pub const UNDECIDED: &[(&str, &str)] = &[(
    "open::etxtbsy",
    "opened with O_RDONLY|O_TRUNC, the kernel has FUSE empty a program that runs before it refuses; \
     the program may be gone by then, and the open succeeds",
)];
