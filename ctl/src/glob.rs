//! Patterns for workspace paths.

/// A pattern: `*` and `?` stay within a name, `**` also crosses `/`.
///
/// A pattern that does not begin with `/` fits at any depth. Matching takes time in proportion
/// to pattern times path, whatever the pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    OneInName,
    ManyInName,
    Many,
}

impl Glob {
    /// Reads a pattern; every text is one.
    pub fn new(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        if !pattern.starts_with('/') {
            tokens.extend([Token::Many, Token::Literal('/')]);
        }
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if chars.next_if_eq(&'*').is_some() => Token::Many,
                '*' => Token::ManyInName,
                '?' => Token::OneInName,
                '\\' => Token::Literal(chars.next().unwrap_or('\\')),
                c => Token::Literal(c),
            });
        }
        Self { tokens }
    }

    /// Returns whether the whole of `path` fits.
    pub fn matches(&self, path: &str) -> bool {
        // reached[i]: the first i tokens fit the part of the path read so far.
        let mut reached = vec![false; self.tokens.len() + 1];
        reached[0] = true;
        self.skip_empty(&mut reached);
        for c in path.chars() {
            let mut next = vec![false; reached.len()];
            for (index, token) in self.tokens.iter().enumerate() {
                if !reached[index] {
                    continue;
                }
                match token {
                    Token::Literal(literal) => next[index + 1] |= *literal == c,
                    Token::OneInName => next[index + 1] |= c != '/',
                    Token::ManyInName => next[index] |= c != '/',
                    Token::Many => next[index] = true,
                }
            }
            self.skip_empty(&mut next);
            reached = next;
        }
        reached[self.tokens.len()]
    }

    /// Stars also fit nothing.
    fn skip_empty(&self, reached: &mut [bool]) {
        for (index, token) in self.tokens.iter().enumerate() {
            if matches!(token, Token::ManyInName | Token::Many) && reached[index] {
                reached[index + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_know_their_reach() {
        let check = |pattern: &str, path: &str, fits: bool| {
            assert_eq!(Glob::new(pattern).matches(path), fits, "{pattern} {path}");
        };
        check("/docs/**", "/docs/a/b.md", true);
        check("/docs/**", "/docs", false);
        check("/docs/*", "/docs/a", true);
        check("/docs/*", "/docs/a/b", false);
        check("*.rs", "/src/lib.rs", true);
        check("*.rs", "/src/lib.rst", false);
        check("lib.rs", "/lib.rs", true);
        check("/a?c", "/abc", true);
        check("/a?c", "/a/c", false);
        check("/**/x", "/a/b/x", true);
        check(r"/a\*", "/a*", true);
        check(r"/a\*", "/ab", false);
        check(&"*a".repeat(40), &format!("/{}", "a".repeat(4_000)), true);
    }
}
