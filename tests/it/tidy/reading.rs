//! Reading the project: its files, what its sources name, what its documents link to.

use std::fs;
use std::path::{Path, PathBuf};

pub struct Source {
    pub path: PathBuf,
    /// `src/engine/plan.rs` is in `engine`.
    pub module: String,
    pub text: String,
    /// `text` without comment lines and without the tests at its end.
    pub code: String,
    /// It is compiled for tests only.
    pub is_test: bool,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The project's own files, without what is built and what git keeps.
pub fn project_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // `.git` is a file where the checkout is one of several.
            let skipped = path.ends_with("target") || path.ends_with(".git");
            if path.is_dir() && !skipped {
                folders.push(path);
            } else if path.is_file() && !skipped {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

pub fn sources(folder: &str) -> Vec<Source> {
    let folder = root().join(folder);
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let inside = |path: &PathBuf| path.starts_with(&folder) && is_rust(path);
    let files: Vec<PathBuf> = project_files().into_iter().filter(inside).collect();
    let tests: Vec<PathBuf> = files.iter().flat_map(|path| test_modules(path)).collect();
    let mut all = Vec::new();
    for path in files {
        let text = read(&path);
        let first = path
            .strip_prefix(&folder)
            .unwrap()
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let is_test =
            tests.iter().any(|test| path.starts_with(test) || path == test.with_extension("rs"));
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let above = text.lines().take_while(|line| !line.starts_with("mod tests {"));
        let code = above.filter(is_code).collect::<Vec<_>>().join("\n");
        all.push(Source { path, module, text, code, is_test });
    }
    assert!(!all.is_empty(), "no sources in {}", folder.display());
    all
}

/// Where the modules are, without `.rs`, that a file has for its tests only.
fn test_modules(path: &Path) -> Vec<PathBuf> {
    let text = read(path);
    let declared = text.split("#[cfg(test)]\nmod ").skip(1).map(leading_name);
    let is_root = path.ends_with("lib.rs") || path.ends_with("main.rs");
    let folder = if is_root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
    declared.map(|name| folder.join(name)).collect()
}

/// The modules of `src/lib.rs`, group by group as its blank lines part them.
pub fn module_groups() -> Vec<Vec<String>> {
    let text = read(&root().join("src/lib.rs"));
    let mut groups: Vec<Vec<String>> = vec![Vec::new()];
    for line in text.lines() {
        if let Some(module) = line.strip_prefix("pub mod ") {
            groups.last_mut().unwrap().push(module.trim_end_matches(';').to_owned());
        } else if !groups.last().unwrap().is_empty() {
            groups.push(Vec::new());
        }
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// The first name after each `crate::`; a group gives the first name of each of its members.
pub fn names_after_crate(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            names.push(leading_name(rest));
            continue;
        };
        let (mut depth, mut starts) = (0_usize, true);
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => starts = true,
                c if starts && depth == 0 && c.is_alphabetic() => {
                    names.push(leading_name(&group[at..]));
                    starts = false;
                }
                _ => {}
            }
        }
    }
    names
}

pub fn leading_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether a path in `code` starts with the crate `name`.
pub fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// The targets of a document's links.
pub fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target).collect()
}

/// Whether a link of the document at `path` leads to a file or a heading.
pub fn leads_somewhere(path: &Path, folder: &Path, link: &str) -> bool {
    if link.contains("://") {
        return true;
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, a)| (file, Some(a)));
    let target = if file.is_empty() { path.to_owned() } else { folder.join(file) };
    let Ok(target) = fs::canonicalize(target) else { return false };
    anchor.is_none_or(|anchor| {
        let text = read(&target);
        text.lines()
            .filter(|line| line.starts_with('#'))
            .any(|line| slug(line.trim_start_matches('#').trim()) == anchor)
    })
}

/// A heading as a link names it.
pub fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// What stands between single backticks, outside of fenced blocks.
pub fn code_spans(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut spans = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            spans.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    spans
}

/// Whether a code span is meant as a file of the project.
pub fn is_project_path(span: &str) -> bool {
    let folders =
        ["src/", "ctl/", "server/", "tests/", "benches/", "docs/", "systemd/", "launchd/", ".ci/"];
    folders.iter().any(|folder| span.starts_with(folder))
        && !span.contains(['*', '{', ' ', '<'])
        && !span.contains("NNNN")
}

/// The documents that the comments of a source file name.
pub fn documents_named(text: &str) -> Vec<String> {
    let name = |rest: &str| {
        let end = rest.find(".md")?;
        let name = &rest[..end];
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "/-_".contains(c));
        plain.then(|| format!("docs/{name}.md"))
    };
    let comments = text.lines().filter(|line| line.trim_start().starts_with("//"));
    comments.flat_map(|line| line.split("docs/").skip(1).filter_map(name)).collect()
}

/// The readers above read what they should.
#[test]
fn names_links_and_spans_are_found() {
    let code = "use crate::{\n    node::{Ino, Node},\n    fuse,\n};\ncrate::path::x()";
    assert_eq!(names_after_crate(code), ["node", "fuse", "path"]);
    assert!(names_crate("use nix::unistd;", "nix"));
    assert!(!names_crate("use std::os::unix::net;", "nix"));
    assert!(!names_crate("use tokio::sync::notify::X;", "notify"));
    assert_eq!(links("see [a](b.md#c) and [d](e)"), ["b.md#c", "e"]);
    assert_eq!(code_spans("`a` b `c::d`\n```\n`no`\n```\n"), ["a", "c::d"]);
    assert_eq!(slug("4. What `fsync` does: all"), "4-what-fsync-does-all");
    let comments = ["//! in `docs/a-b.md`, docs/c/d.md.", "let no = \"docs/e.md\";"].join("\n");
    assert_eq!(documents_named(&comments), ["docs/a-b.md", "docs/c/d.md"]);
}
