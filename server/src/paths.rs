//! Workspace paths: how they are brought to their stored form, refused, split and matched.
//!
//! A stored path starts with `/`, has no empty, `.` or `..` segment and no NUL, and is compared
//! byte by byte. White space is part of a name.

/// Longest stored path, in bytes; long enough for any path a file system can hold.
pub(crate) const PATH_BYTES_MAX: usize = 8192;

/// Brings the path of a file to its stored form; `None` when no file may have it.
pub(crate) fn file_path(raw: &str) -> Option<String> {
    folder_path(raw).filter(|path| path != "/")
}

/// Brings the path of a folder to its stored form, where the empty path is the root.
pub(crate) fn folder_path(raw: &str) -> Option<String> {
    let path = normalise(raw);
    if path == "/" {
        return Some(path);
    }
    let sound = path.len() <= PATH_BYTES_MAX
        && !path.contains('\0')
        && path[1..].split('/').all(|name| !matches!(name, "" | "." | ".."));
    sound.then_some(path)
}

/// Adds a leading slash and removes one trailing slash, and nothing else.
pub(crate) fn normalise(raw: &str) -> String {
    let mut path = String::with_capacity(raw.len() + 1);
    if !raw.starts_with('/') {
        path.push('/');
    }
    path.push_str(raw);
    if path.len() > 1 && path.ends_with('/') {
        path.pop();
    }
    path
}

/// Returns the folder a path lies in; `None` when that is the root.
pub(crate) fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(0) | None => None,
        Some(at) => Some(&path[..at]),
    }
}

/// Returns the bounds of the paths below a folder: after the first, before the second.
pub(crate) fn below(folder: &str) -> (String, String) {
    let base = folder.trim_end_matches('/');
    // '0' is the byte after '/', so it bounds everything that continues with a slash.
    (format!("{base}/"), format!("{base}0"))
}

/// Returns the provider of a path: its first segment in lower case.
pub(crate) fn provider(path: &str) -> String {
    path.trim_start_matches('/').split('/').next().unwrap_or_default().to_lowercase()
}

/// Tells whether a path matches a feed filter: `*` is one segment, a final `**` any rest.
pub(crate) fn filter_matches(filter: &str, path: &str) -> bool {
    let mut wanted = filter.trim_start_matches('/').split('/').peekable();
    let mut names = path.trim_start_matches('/').split('/');
    while let Some(want) = wanted.next() {
        if want == "**" && wanted.peek().is_none() {
            return true;
        }
        match names.next() {
            Some(name) if want == "*" || want == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_file(raw: &str, stored: Option<&str>) {
        assert_eq!(file_path(raw).as_deref(), stored, "{raw:?}");
    }

    #[test]
    fn files_have_one_spelling() {
        check_file("/a/b", Some("/a/b"));
        check_file("a/b/", Some("/a/b"));
        check_file("/a/b ", Some("/a/b "));
        for refused in ["", "/", "//", "/a//b", "//a", "/a/../b", "/./a", "/a/..", "/a\0b", "/a//"]
        {
            check_file(refused, None);
        }
        check_file(&format!("/{}", "x".repeat(PATH_BYTES_MAX)), None);
    }

    #[test]
    fn bounds_hold_exactly_what_is_below() {
        assert_eq!(below("/"), ("/".to_owned(), "0".to_owned()));
        let (low, high) = below("/a");
        assert!(low.as_str() < "/a/x" && "/a/x" < high.as_str());
        assert!("/a-b" < low.as_str());
        assert!("/a0" >= high.as_str());
    }

    #[test]
    fn filters_follow_segments() {
        for (filter, path, expected) in [
            ("/ws/*", "/ws/a", true),
            ("/ws/*", "/ws/a/b", false),
            ("/ws/**", "/ws/a/b", true),
            ("/ws/a", "/ws/a", true),
            ("/ws/a", "/ws/ab", false),
            ("/**", "/x", true),
        ] {
            assert_eq!(filter_matches(filter, path), expected, "{filter} {path}");
        }
    }
}
